"""Small decisions of building and of the kind provider."""

import pytest

from e2e.cluster.errors import ClusterError
from e2e.cluster.footprint import Footprint
from e2e.cluster.kind import home_node
from e2e.cluster.toolchain import version_in


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("module x\n\ngo 1.24.0\n", (1, 24)),
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.9 linux/arm64", (1, 9)),
    ],
)
def test_go_versions_are_compared_as_numbers(text, version):
    assert version_in(text) == version


def test_a_text_without_a_go_version_is_refused():
    with pytest.raises(ClusterError, match="no Go version"):
        version_in("gopher")


@pytest.mark.parametrize(
    ("nodes", "home"),
    [
        (["openinference-control-plane"], "openinference-control-plane"),
        (["o-control-plane", "o-worker2", "o-worker"], "o-worker"),
    ],
)
def test_kind_keeps_monitoring_off_a_tainted_control_plane(nodes, home):
    assert home_node(nodes) == home


def test_a_footprint_shows_only_what_was_added():
    kinds = ("addresses", "control_groups", "files", "firewall", "mounts", "processes", "routes")
    before = Footprint(**{kind: frozenset({"a"}) for kind in kinds})
    after = Footprint(**{kind: frozenset({"a"}) for kind in kinds[1:]}, addresses=frozenset("b"))

    assert after.beyond(before) == {"addresses": ["b"]}
