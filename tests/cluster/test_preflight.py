"""What a user hears before anything is started."""

from dataclasses import replace
from pathlib import Path

import pytest

from e2e.cluster import preflight
from e2e.cluster.errors import UnsupportedMachine
from e2e.cluster.preflight import BUILD_BYTES, RUN_BYTES, Machine, check, choose, obstacles
from e2e.cluster.provider import ProviderName

CAPABLE = Machine(
    is_linux=True,
    is_root=True,
    docker_answers=False,
    can_make_namespaces=True,
    can_make_control_groups=True,
    has_bridge_filter=True,
    has_apt=True,
    missing_packages=(),
    free_bytes=100 * 2**30,
    free_state_bytes=100 * 2**30,
    is_built=False,
)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (CAPABLE, ProviderName.EMBEDDED),
        (replace(CAPABLE, docker_answers=True), ProviderName.KIND),
        (replace(CAPABLE, docker_answers=True, is_root=False), ProviderName.KIND),
        (replace(CAPABLE, docker_answers=True, is_linux=False), ProviderName.KIND),
    ],
    ids=["root", "root with Docker", "a user with Docker", "a Mac with Docker"],
)
def test_docker_is_preferred_and_root_on_linux_is_the_other_way(machine, expected):
    assert choose(ProviderName.AUTO, machine) is expected


def test_a_wish_is_respected():
    machine = replace(CAPABLE, docker_answers=True)

    assert choose(ProviderName.EMBEDDED, machine) is ProviderName.EMBEDDED


@pytest.mark.parametrize("change", [{"is_root": False}, {"is_linux": False}])
def test_without_docker_and_root_the_message_names_both_remedies(change):
    with pytest.raises(UnsupportedMachine, match="start Docker, or run the command as root"):
        choose(ProviderName.AUTO, replace(CAPABLE, **change))


def test_a_capable_machine_has_no_obstacles():
    assert not list(obstacles(ProviderName.EMBEDDED, CAPABLE))
    check(ProviderName.EMBEDDED, CAPABLE)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"is_linux": False}, "start Docker to use kind"),
        ({"is_root": False}, "run the command as root"),
        ({"can_make_namespaces": False}, "--privileged"),
        ({"can_make_control_groups": False}, "--cgroupns=private"),
        ({"has_bridge_filter": False}, "modprobe br_netfilter"),
        ({"missing_packages": ("runc",), "has_apt": False}, "packages are missing: runc"),
        ({"free_bytes": 2 * 2**30}, "needs 7 GiB .* there are 2.0"),
        ({"free_state_bytes": 2**29}, "needs 1 GiB .* there are 0.5"),
        ({"hidden_in_pods": (Path("/models/x"),)}, "over /models/x.* move that"),
        ({"closed_to_pods": (Path("/home/x"),)}, "may not read /home/x; .*chmod -R go"),
    ],
)
def test_each_obstacle_is_one_sentence_with_its_remedy(change, remedy):
    with pytest.raises(UnsupportedMachine, match=remedy) as caught:
        check(ProviderName.EMBEDDED, replace(CAPABLE, **change))

    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "is_closed"), [(0o755, False), (0o700, True), (0o750, True), (0o744, True)]
)
def test_a_folder_that_others_cannot_enter_is_closed(mode, is_closed, tmp_path):
    tmp_path.chmod(mode)

    assert preflight._is_closed(tmp_path) is is_closed


def test_missing_packages_are_no_obstacle_where_apt_can_install_them():
    machine = replace(CAPABLE, missing_packages=("runc",))

    assert list(obstacles(ProviderName.EMBEDDED, machine)) == []


def test_a_built_cluster_needs_less_disk():
    assert replace(CAPABLE, is_built=True).needed_bytes == RUN_BYTES
    assert CAPABLE.needed_bytes == RUN_BYTES + BUILD_BYTES


def test_kind_without_docker_says_what_to_do():
    with pytest.raises(UnsupportedMachine, match="start Docker"):
        check(ProviderName.KIND, CAPABLE)
