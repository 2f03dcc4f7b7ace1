"""Which folders of the host every container sees."""

from pathlib import Path

import pytest

from e2e.cluster.runtime import hidden_in_pods, mounted_paths


def test_a_folder_inside_another_is_mounted_once(tmp_path):
    environment = tmp_path / "project" / ".venv"
    environment.mkdir(parents=True)

    assert mounted_paths([environment, tmp_path / "project"]) == [tmp_path / "project"]


def test_a_link_is_mounted_with_its_target(tmp_path):
    """uv's interpreters are reached through a link that names only the minor version."""
    target, link = tmp_path / "python-3.12.7", tmp_path / "python-3.12"
    target.mkdir()
    link.symlink_to(target)

    assert mounted_paths([link]) == [link, target]


def test_a_neighbour_whose_name_begins_alike_is_not_swallowed(tmp_path):
    paths = [tmp_path / "lib", tmp_path / "lib64"]

    assert mounted_paths(paths) == paths


@pytest.mark.parametrize("path", ["/dev/x", "/models", "/opt/openinference/src", "/scratch/x"])
def test_a_checkout_below_a_mount_of_pods_is_hidden(path):
    assert hidden_in_pods([Path("/usr"), Path(path)]) == [Path(path)]


@pytest.mark.parametrize("path", ["/dev-tools", "/opt/openinference-v2", "/home/models"])
def test_other_checkouts_are_seen(path):
    assert hidden_in_pods([Path(path)]) == []
