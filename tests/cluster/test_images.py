"""Images that hold no software."""

import io
import json
import tarfile

from e2e.cluster import images


def read(archive, name):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(name)
        assert member is not None
        return member.read()


def test_an_archive_names_its_reference_and_its_one_layer(monkeypatch):
    monkeypatch.setattr(images, "_architecture", lambda: "amd64")

    archive = images.archive("openinference/engine:v2", b"layer", {"User": "65532"})

    (manifest,) = json.loads(read(archive, "manifest.json"))
    assert manifest["RepoTags"] == ["openinference/engine:v2"]
    assert read(archive, manifest["Layers"][0]) == b"layer"


def test_two_tags_have_different_configurations(monkeypatch):
    """An upgrade to a tag with the same digest would not look like one to the kubelet."""
    monkeypatch.setattr(images, "_architecture", lambda: "amd64")
    configs = [
        read(images.archive(name, b"", images.settings(name)), "config.json")
        for name in ("openinference/engine:dev", "openinference/engine:v2")
    ]

    assert configs[0] != configs[1]


def test_containers_run_as_the_customary_non_root_account():
    settings = images.settings("openinference/engine:dev")

    assert settings["User"] == "65532"


def test_every_part_is_offered_under_every_tag():
    assert images.references(["dev", "v2"]) == [
        "openinference/engine:dev",
        "openinference/engine:v2",
        "openinference/operator:dev",
        "openinference/operator:v2",
    ]
