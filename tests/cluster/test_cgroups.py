"""Control groups of version 2, on plain files: what is written where."""

import pytest

from e2e.cluster import cgroups
from e2e.cluster.errors import ClusterError


@pytest.fixture
def hierarchy(tmp_path, monkeypatch):
    """A root of cgroup v2 with two processes; the files of its inner groups are made by hand."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory misc")
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "cgroup.procs").write_text("1\n42\n")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])
    return tmp_path


def test_the_root_of_a_container_is_emptied_before_it_hands_controllers_down(hierarchy):
    (hierarchy / "cgroup.type").write_text("domain")

    cgroups.create(node=1)

    assert (hierarchy / "init" / "cgroup.procs").read_text().split() == ["1", "42"]
    assert (hierarchy / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (hierarchy / "openinference" / "node-1" / "system").is_dir()


def test_the_real_root_keeps_its_processes(hierarchy):
    cgroups.create(node=1)

    assert not (hierarchy / "init").exists()
    assert (hierarchy / "cgroup.subtree_control").read_text() == "+cpu +memory"


def test_a_tree_that_refuses_is_one_sentence_with_a_remedy(hierarchy):
    (hierarchy / "openinference").write_text("not a folder")

    with pytest.raises(ClusterError, match=r"No control groups .* --privileged"):
        cgroups.create(node=1)


def test_without_hierarchies_no_group_can_be_made(monkeypatch):
    monkeypatch.setattr(cgroups, "hierarchies", list)

    assert not cgroups.are_writable()
