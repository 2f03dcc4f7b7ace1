"""A controller that runs, with an API server over HTTP, and how tests wait for it."""

import asyncio
import time

from openinference_operator.resources import RESOURCES


class Running:
    """A controller with two workers, and what it wrote."""

    def __init__(self, server, store, triggers, queue):
        self.server = server
        self.store = store
        self.triggers = triggers
        self.queue = queue

    def submit(self, raw):
        """Let the watch show an InferenceService."""
        fields = {key: raw[key] for key in ("apiVersion", "metadata", "spec")}
        stored = self.server.put("InferenceService", raw["metadata"]["name"], **fields)
        assert self.store.put(stored)
        self.triggers.changed(stored)

    async def at_rest(self):
        """Return when nothing was asked of the API server for a while."""
        calls = None
        while len(self.server.calls) != calls:
            calls = len(self.server.calls)
            for _ in range(30):  # turns of the event loop, which a busy machine takes too
                await asyncio.sleep(0.01)

    def kinds(self):
        return sorted({obj["kind"] for obj in self.server.objects.values()})

    def status(self, name="demo"):
        path = RESOURCES["InferenceService"].path("team-a", name)
        return self.server.objects[path].get("status", {})

    def ready(self, name="demo"):
        conditions = self.status(name).get("conditions", [])
        return next((entry for entry in conditions if entry["type"] == "Ready"), {})


async def until(claim, seconds=120.0):
    """Wait until a claim holds, and fail when it does not in time."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.01)
