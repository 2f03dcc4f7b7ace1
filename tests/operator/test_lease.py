"""The lease against an API server over real HTTP (a small model of one)."""

import asyncio

import pytest
from openinference_operator import lease as lease_module
from openinference_operator.errors import LeaseLost
from openinference_operator.lease import Lease
from openinference_operator.metrics import IS_LEADER
from openinference_operator.resources import RESOURCES

from tests.operator.running import until


async def test_only_one_of_two_replicas_holds_the_lease(cluster, lease):
    other = Lease(cluster, "system", "operator-1")
    task = asyncio.create_task(other.keep())
    await until(lambda: IS_LEADER.collect()[0].samples[0].value == 0)  # as the other has found
    assert lease.is_held
    assert not other.is_held
    task.cancel()


async def test_a_released_lease_is_taken_at_once(cluster, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    leaving, other = (Lease(cluster, "system", f"operator-{number}") for number in range(2))
    keeping = asyncio.create_task(leaving.keep())
    await leaving.wait_until_held()
    keeping.cancel()  # else it might take the lease again
    await leaving.release()
    task = asyncio.create_task(other.keep())
    await asyncio.wait_for(other.wait_until_held(), 30)
    assert not leaving.is_held
    task.cancel()


async def test_a_holder_that_is_silent_is_replaced_after_the_duration(cluster, server, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    server.objects[RESOURCES["Lease"].path("system", lease_module.NAME)] = {
        "metadata": {"name": lease_module.NAME, "namespace": "system", "resourceVersion": "1"},
        "spec": {"holderIdentity": "dead", "renewTime": "long ago", "leaseDurationSeconds": 0.3},
    }
    taker, loop = Lease(cluster, "system", "operator-1"), asyncio.get_running_loop()
    started = loop.time()
    task = asyncio.create_task(taker.keep())
    await asyncio.wait_for(taker.wait_until_held(), 30)
    assert loop.time() - started > 0.3
    task.cancel()


async def test_every_time_as_leader_is_a_new_term(cluster, lease, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    first = lease.term
    await lease.release()
    await asyncio.wait_for(lease.wait_until_held(), 30)
    assert lease.term == first + 1


async def test_a_holder_that_cannot_renew_stops_believing(cluster, server, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(lease_module, "BELIEF_SECONDS", 0.2)
    holder = Lease(cluster, "system", "operator-0")
    task = asyncio.create_task(holder.keep())
    await holder.wait_until_held()
    server.failures = [500] * 1000
    await until(lambda: not holder.is_held)
    with pytest.raises(LeaseLost):
        holder.check()
    task.cancel()
