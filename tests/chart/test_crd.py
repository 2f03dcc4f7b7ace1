"""The chart brings the repository's CRD, in a form that Helm upgrades and never deletes."""

import yaml


def test_crds_of_chart_are_those_of_the_repository(repository, chart):
    """On failure: cp crds/*.yaml charts/openinference/files/crds/."""
    source = {path.name: path.read_text() for path in (repository / "crds").glob("*.yaml")}
    copies = {path.name: path.read_text() for path in (chart / "files" / "crds").glob("*.yaml")}

    assert source
    assert copies == source


def test_no_crd_lies_where_helm_would_never_upgrade_it(chart):
    assert not (chart / "crds").exists()


def test_rendered_crd_says_what_the_source_says(render, repository):
    rendered = {
        item["metadata"]["name"]: item["spec"]
        for item in render({})
        if item["kind"] == "CustomResourceDefinition"
    }
    sources = [yaml.safe_load(path.read_text()) for path in (repository / "crds").glob("*.yaml")]

    assert rendered == {source["metadata"]["name"]: source["spec"] for source in sources}


def test_uninstall_keeps_the_crd(render):
    (crd,) = [item for item in render({}) if item["kind"] == "CustomResourceDefinition"]

    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_crd_can_be_left_to_others(render):
    kinds = {item["kind"] for item in render({"crd": {"install": False}})}

    assert "CustomResourceDefinition" not in kinds
    assert "Deployment" in kinds
