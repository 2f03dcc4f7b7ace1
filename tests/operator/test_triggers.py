"""Which keys a change concerns, and how often the router of a namespace is written anew."""

import asyncio

import pytest
from openinference_operator import triggers as module
from openinference_operator.store import Store
from openinference_operator.triggers import Key, Triggers
from openinference_operator.workqueue import WorkQueue


@pytest.fixture
async def seen(raw_service):
    """Shows services to the triggers of an operator; gives the store and the queue as well."""
    store, queue = Store(), WorkQueue()
    triggers = Triggers(store, None, queue)

    def show(name):
        raw = raw_service(name=name)
        store.put(raw)
        triggers.changed(raw)

    return show, store, queue


async def keys_of(queue, number):
    """So many keys, and those that come within a while after them, each done at once."""
    keys = []
    while True:
        try:
            key = await asyncio.wait_for(queue.get(), 60 if len(keys) < number else 0.3)
        except TimeoutError:
            return keys
        keys.append(key)
        queue.done(key, succeeded=True)


async def test_the_first_service_of_a_namespace_wakes_its_router_at_once(seen, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_PER_OWNER", 600)
    show, _, queue = seen
    show("demo")
    assert await keys_of(queue, 2) == [Key("team-a", "demo"), Key("team-a", "")]


async def test_many_services_after_it_are_written_into_the_router_together(seen, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_PER_OWNER", 0.2)
    show, store, queue = seen
    metadata = {"name": "router", "namespace": "team-a", "uid": "u", "resourceVersion": "1"}
    store.put({"kind": "Deployment", "metadata": metadata})
    names = [f"demo-{number}" for number in range(20)]
    for name in names:
        show(name)
    keys = await keys_of(queue, 21)
    assert keys == [*(Key("team-a", name) for name in names), Key("team-a", "")]
