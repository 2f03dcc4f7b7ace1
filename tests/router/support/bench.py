"""A router inside the test's own event loop."""

from dataclasses import dataclass

import aiohttp
from builders import until
from openinference_router.dashboard.history import LiveHistory
from openinference_router.keys import KeyRing
from openinference_router.router import Router
from openinference_router.wire import ServiceState


@dataclass
class Bench:
    """A router with both its faces, and a client session."""

    router: Router
    keys: KeyRing
    history: LiveHistory
    client: aiohttp.ClientSession
    url: str
    internal_url: str

    def chat(self, **changes):
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 8,
            **changes,
        }
        headers = body.pop("headers", {})
        return self.client.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def admitted(self, num_groups: int = 1) -> None:
        """Wait until so many groups of `demo` are admitted."""
        await until(lambda: sum(g.admitted for g in self.demo.groups.values()) == num_groups)

    async def group_running(self, name: str, num_requests: int) -> None:
        """Wait until a group's report of so many running requests has arrived."""
        await until(lambda: self.demo.groups[name].running == num_requests)

    async def held(self, num_requests: int) -> None:
        await until(lambda: self.demo.held == num_requests)

    @property
    def demo(self) -> ServiceState:
        return self.router.state().services["demo"]
