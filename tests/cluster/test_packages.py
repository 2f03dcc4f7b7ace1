"""Installing packages, against an apt-get that we wrote."""

from contextlib import nullcontext

import pytest

from e2e.cluster import packages
from e2e.cluster.errors import ClusterError


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Put programs on PATH that note their calls and fail on the words they are told to."""
    log = tmp_path / "calls"
    for program in ("apt-get", "systemctl"):
        script = f"""#!/bin/sh
echo {program} "$@" >> {log}
case " $* " in *" $FAILS "*) echo "$FAILS is broken" >&2; exit 100;; esac
"""
        (tmp_path / program).write_text(script)
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("FAILS", "nothing")
    monkeypatch.setattr(packages, "_services_held_back", nullcontext)
    return log


def test_a_broken_source_does_not_stop_the_installation(calls, monkeypatch):
    monkeypatch.setenv("FAILS", "update")

    packages.install(("runc",))

    assert calls.read_text().splitlines()[-1].endswith("--no-install-recommends runc")


def test_a_failed_installation_tells_what_was_wrong_with_the_sources(calls, monkeypatch):
    monkeypatch.setenv("FAILS", "--option=DPkg::Lock::Timeout=300")

    with pytest.raises(ClusterError, match=r"update` failed: .* install .* failed: "):
        packages.install(("runc",))


@pytest.mark.parametrize(
    ("names", "disabled"),
    [(("runc",), []), (("runc", "prometheus"), ["systemctl disable prometheus.service"])],
)
def test_only_services_that_came_with_the_installation_are_disabled(names, disabled, calls):
    packages.install(names)

    lines = calls.read_text().splitlines()
    assert [line for line in lines if line.startswith("systemctl")] == disabled
