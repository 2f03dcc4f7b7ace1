"""Complete lists make the store whole at the start, and find later what a watch has missed."""

import asyncio

import pytest
from openinference_operator import names, watches
from openinference_operator.cluster import RESOURCES
from openinference_operator.store import Store
from openinference_operator.triggers import Key, Triggers
from openinference_operator.watches import keep_listing
from openinference_operator.workqueue import WorkQueue

POD = {"uid": "uid-pod", "labels": {names.LABEL_SERVICE: "demo"}}


class Listing:
    """Lists that are taken all the time, and what came of them."""

    def __init__(self):
        self.store, self.queue = Store(), WorkQueue()
        self.rounds = asyncio.Queue()

    async def keep(self, cluster):
        triggers = Triggers(self.store, None, self.queue)
        await keep_listing(cluster, self.store, triggers, "team-a", self._whole)

    def _whole(self):
        self.rounds.put_nowait("whole")

    def pods(self):
        return [pod["metadata"]["name"] for pod in self.store.all_pods()]


@pytest.fixture
async def listing(cluster, monkeypatch):
    for name in ("RETRY_SECONDS", "SOON_SECONDS", "RELIST_SECONDS"):
        monkeypatch.setattr(watches, name, 0.01)
    kept = Listing()
    task = asyncio.create_task(kept.keep(cluster))
    yield kept
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_exists_is_known_after_the_first_lists(listing, server):
    server.put("Pod", "demo-1-0-0", metadata=POD)
    await listing.rounds.get()
    assert listing.pods() == ["demo-1-0-0"]
    assert await listing.queue.get() == Key("team-a", "demo")


async def test_nothing_begins_before_every_kind_is_listed(listing, server):
    server.forbidden = "/rolebindings"
    server.put("Pod", "demo-1-0-0", metadata=POD)
    await listing.queue.get()  # pods are the last kind
    assert listing.rounds.empty()
    server.forbidden = ""
    await listing.rounds.get()


async def test_what_vanished_unseen_is_forgotten_and_looked_into(listing, server):
    server.put("Pod", "demo-1-0-0", metadata=POD)
    await listing.rounds.get()
    key = await listing.queue.get()
    listing.queue.done(key, succeeded=True)
    del server.objects[RESOURCES["Pod"].path("team-a", "demo-1-0-0")]
    assert await listing.queue.get() == key
    assert listing.pods() == []
