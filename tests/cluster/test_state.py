"""Which record of a cluster is adopted."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from e2e.cluster import places, state
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.state import ClusterState

CLUSTER = ClusterState(AddressPlan(IPv4Network("10.1.0.0/16")), nodes=2)


@pytest.fixture(autouse=True)
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "STATE", tmp_path)
    monkeypatch.setattr(places, "CLUSTER_RECORD", tmp_path / "cluster.json")
    state.save(CLUSTER)


def test_own_cluster_is_adopted() -> None:
    assert state.load() == CLUSTER


def test_cluster_of_another_boot_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "boot_id", lambda: "another")

    assert state.load() is None


def test_cluster_that_runs_another_checkout_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: its containers mount the other checkout, so pods ran old code or none."""
    monkeypatch.setattr(places, "PROJECT", Path("/elsewhere"))

    assert state.load() is None


def test_record_of_older_code_is_not_adopted() -> None:
    places.CLUSTER_RECORD.write_text('{"format": 1, "bootId": "x", "block": "y", "nodes": 1}')

    assert state.load() is None
