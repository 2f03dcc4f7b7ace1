"""Daemons are recognised by what they are, not by a number."""

import json
import os
import resource
from pathlib import Path

import pytest

from e2e.cluster import processes
from e2e.cluster.processes import Daemon


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.places, "PROCESSES", tmp_path)
    return tmp_path


def write(records, **changes):
    ticks = processes._start_ticks(os.getpid())
    record = {"pid": os.getpid(), "start_ticks": ticks, "fingerprint": "x", **changes}
    (records / "etcd.json").write_text(json.dumps(record))


def test_a_living_process_is_recognised(records):
    write(records)

    assert processes.running_pid("etcd") == os.getpid()


@pytest.mark.parametrize(
    "change",
    [{"start_ticks": 1}, {"pid": 2**22 + 1}, {"start_ticks": None}],
    ids=["the pid belongs to another", "no such process", "it died at once"],
)
def test_a_process_that_is_not_the_recorded_one_counts_as_dead(records, change):
    write(records, **change)

    assert processes.running_pid("etcd") is None


def test_without_a_record_nothing_runs(records):
    assert processes.running_pid("etcd") is None


@pytest.mark.parametrize(
    "other",
    [
        Daemon("kubelet", 1, ("kubelet", "--v=2"), {Path("/a"): "1"}),
        Daemon("kubelet", 1, ("kubelet",), {Path("/a"): "2"}),
        Daemon("kubelet", 1, ("kubelet",), {Path("/b"): "1"}),
    ],
    ids=["another flag", "another setting", "another file"],
)
def test_a_changed_description_is_another_daemon(other):
    daemon = Daemon("kubelet", 1, ("kubelet",), {Path("/a"): "1"})

    assert daemon.fingerprint() != other.fingerprint()


def test_a_daemon_inherits_all_but_the_proxies():
    variables = {"PATH": "/bin", "HTTPS_PROXY": "a", "http_proxy": "b", "ALL_PROXY": "c"}

    assert processes.without_proxies(variables) == {"PATH": "/bin"}


def test_a_daemon_may_open_as_many_files_as_the_machine_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        processes._allow_many_open_files()

        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
