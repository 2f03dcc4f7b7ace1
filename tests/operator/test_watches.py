"""Complete lists make the store whole at the start, and find later what a watch has missed."""

import asyncio

import pytest
from openinference_operator import names, watches
from openinference_operator.resources import RESOURCES
from openinference_operator.store import Store
from openinference_operator.triggers import Key, Triggers
from openinference_operator.watches import keep_listing
from openinference_operator.workqueue import WorkQueue

PATIENCE_SECONDS = 30.0
POD = {"uid": "uid-pod", "labels": {names.LABEL_SERVICE: "demo"}}


class Listing:
    """Lists that are taken all the time, and what came of them."""

    def __init__(self):
        self.store, self.queue = Store(), WorkQueue()
        self.is_whole = asyncio.Event()

    async def keep(self, cluster):
        triggers = Triggers(self.store, None, self.queue)
        await keep_listing(cluster, self.store, triggers, "team-a", self.is_whole.set)

    async def whole(self):
        """Return when all kinds have been listed."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.is_whole.wait()

    async def key(self):
        """The next key that was asked for."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.queue.get()

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
    await listing.whole()
    assert listing.pods() == ["demo-1-0-0"]
    assert await listing.key() == Key("team-a", "demo")


async def test_nothing_begins_before_every_kind_is_listed(listing, server):
    server.forbidden = "/rolebindings"
    server.put("Pod", "demo-1-0-0", metadata=POD)
    await listing.key()  # pods are the last kind
    assert not listing.is_whole.is_set()
    server.forbidden = ""
    await listing.whole()


async def test_what_vanished_unseen_is_forgotten_and_looked_into(listing, server):
    server.put("Pod", "demo-1-0-0", metadata=POD)
    await listing.whole()
    key = await listing.key()
    listing.queue.done(key, succeeded=True)
    del server.objects[RESOURCES["Pod"].path("team-a", "demo-1-0-0")]
    assert await listing.key() == key
    assert listing.pods() == []


async def test_a_kind_that_cannot_be_listed_any_more_hides_nothing_of_the_others(listing, server):
    server.put("Pod", "demo-1-0-0", metadata=POD)
    await listing.whole()
    key = await listing.key()
    listing.queue.done(key, succeeded=True)
    server.forbidden = "/rolebindings"
    await refusals(server, 3)
    del server.objects[RESOURCES["Pod"].path("team-a", "demo-1-0-0")]
    assert await listing.key() == key
    assert listing.pods() == []


async def refusals(server, number):
    """Return when so many lists of the forbidden kind have been asked for from now on."""
    begun_at, asked = len(server.calls), []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(asked) < number:
            await asyncio.sleep(0.001)
            calls = server.calls[begun_at:]
            asked = [path for _, path in calls if path.endswith(server.forbidden)]
