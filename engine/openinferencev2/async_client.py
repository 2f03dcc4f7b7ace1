"""A cluster from Python for asyncio: `AsyncClient`.

It goes the ways of the command line: the same settings, kubectl for what is deployed, and a
port-forward, kept open, for what is asked. With a URL no cluster is needed. A failure raises
CommandError, whose text is the sentence with a remedy that the command line would print.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from openinferencev2 import services
from openinferencev2.answers import Json, Reply, RequestFailed, model_of, open_session, pieces
from openinferencev2.deploy import LOOK_SECONDS, is_ready, manifest, too_late
from openinferencev2.endpoint import Endpoint, opened
from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Kubectl
from openinferencev2.settings import Settings, load

if TYPE_CHECKING:
    import aiohttp

Messages = Sequence[Mapping[str, Any]]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_OURS = ("stream", "stream_options", "n")  # a Reply is one choice, and how it comes the method says


class AsyncClient:
    """One namespace of a cluster, or one URL; what is not given is taken as `config show` tells.

    >>> async def main():
    ...     async with AsyncClient(url=url) as client:
    ...         service = client.service()
    ...         reply = await service.generate("One, two,", max_tokens=4, temperature=0)
    ...         return reply.finish_reason
    >>> asyncio.run(main())
    'length'
    """

    def __init__(
        self,
        *,
        namespace: str | None = None,
        context: str | None = None,
        url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._settings = load(namespace=namespace, context=context, url=url, api_key=api_key)
        self._kubectl = Kubectl(self._settings.context, self._settings.namespace)
        self._ways: dict[str | None, _Way] = {}
        self._exits = contextlib.AsyncExitStack()  # of all ways that were opened
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends its connections. What was deployed stays."""
        self._ways.clear()
        await self._exits.aclose()

    def service(self, name: str | None = None) -> AsyncService:
        """A service that exists; without a name, the only one that is served there."""
        return AsyncService(self, name)

    async def deploy(
        self,
        name: str,
        model: str,
        *,
        replicas: int | None = None,
        gpus: int | None = None,
        max_sequences: int | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> AsyncService:
        """Serve a model, or change how it is served; `wait` on the result until that is so.

        `spec` is what else an InferenceService's spec should say, by the names of its fields.
        """
        made = manifest(name, model, replicas, gpus, max_sequences)
        made["spec"] = _merged(made["spec"], spec or {})
        await asyncio.to_thread(self._kubectl.run, "apply", "--filename=-", stdin=json.dumps(made))
        self._forget(name)  # its model may have another name now
        return self.service(name)

    async def _way(self, name: str | None) -> _Way:
        async with self._opening:
            if name not in self._ways:
                self._ways[name] = await _open(self._settings, name, self._exits)
            return self._ways[name]

    def _forget(self, name: str | None) -> None:
        """The next request opens a way of its own; those under way may still finish on this one."""
        self._ways.pop(name, None)


class AsyncService:
    """One InferenceService, or what a URL serves. Options are the fields of the OpenAI API."""

    def __init__(self, client: AsyncClient, name: str | None) -> None:
        self.name = name
        self._client = client

    async def wait(self, timeout_seconds: float = 600) -> AsyncService:
        """Until it serves its present spec. Raises CommandError once waiting is in vain."""
        deadline = time.monotonic() + timeout_seconds
        while not is_ready(service := await self._read()):
            if time.monotonic() > deadline:
                raise too_late(service, timeout_seconds)
            await asyncio.sleep(LOOK_SECONDS)
        return self

    async def state(self) -> services.State:
        """How it is, in a word and a sentence."""
        return services.state(await self._read())

    async def scale(self, replicas: int) -> AsyncService:
        """Set the number of replicas; `wait` until they are there."""
        await self._kubectl("scale", "infsvc", self._named(), f"--replicas={replicas}")
        return self

    async def delete(self) -> None:
        """Stop serving it. Requests that run are finished first."""
        await self._kubectl("delete", "infsvc", self._named(), "--wait=false")
        self._client._forget(self.name)

    async def url(self) -> str:
        """A base URL for any OpenAI client, good while this client is open."""
        return (await self._client._way(self.name)).endpoint.url + "/v1"

    async def chat(self, messages: Messages, **options: Any) -> Reply:
        """Answers a conversation. Raises RequestFailed."""
        return await self._whole(CHAT, {"messages": messages, **options})

    async def generate(self, prompt: str | list[int], **options: Any) -> Reply:
        """Continues a text, or token ids. Raises RequestFailed."""
        return await self._whole(TEXT, {"prompt": prompt, **options})

    def stream_chat(self, messages: Messages, **options: Any) -> AsyncGenerator[str, None]:
        """`chat` piece by piece, as text comes."""
        return self._pieces(CHAT, {"messages": messages, **options}, Reply())

    def stream(self, prompt: str | list[int], **options: Any) -> AsyncGenerator[str, None]:
        """`generate` piece by piece, as text comes."""
        return self._pieces(TEXT, {"prompt": prompt, **options}, Reply())

    async def _whole(self, path: str, body: Json) -> Reply:
        reply = Reply()
        async with contextlib.aclosing(self._pieces(path, body, reply)) as heard:
            async for _ in heard:
                pass
        return reply

    async def _pieces(self, path: str, body: Json, reply: Reply) -> AsyncGenerator[str, None]:
        if refused := [name for name in _OURS if name in body]:
            remedy = "leave it out, or ask service.url() with an OpenAI client"
            raise CommandError(f"{refused[0]} is no option here", remedy, Exit.USAGE)
        way = await self._client._way(self.name)
        asked = {"model": way.model} | body
        try:
            heard = pieces(way.session, way.endpoint, path, asked, reply)
            async with contextlib.aclosing(heard):
                async for piece in heard:
                    yield piece
        except RequestFailed as error:
            if error.status == 0:  # the port-forward ends with the router's pod that it led to
                self._client._forget(self.name)
            raise

    async def _read(self) -> Json:
        found: Json = json.loads(await self._kubectl("get", "infsvc", self._named(), "-ojson"))
        return found

    async def _kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self._client._kubectl.run, *arguments)

    def _named(self) -> str:
        if self.name is None:
            remedy = "take client.service(NAME)"
            raise CommandError("which service is not said", remedy, Exit.USAGE)
        return self.name


@dataclass(frozen=True, slots=True)
class _Way:
    """An open connection to one service."""

    endpoint: Endpoint
    session: aiohttp.ClientSession
    model: str


async def _open(
    settings: Settings, name: str | None, client_exits: contextlib.AsyncExitStack
) -> _Way:
    async with contextlib.AsyncExitStack() as exits:
        forward = opened(settings, name)
        endpoint = await asyncio.to_thread(forward.__enter__)
        exits.push(forward)
        session = await exits.enter_async_context(open_session(endpoint))
        model = await model_of(session, endpoint)
        client_exits.push_async_exit(exits.pop_all())
        return _Way(endpoint, session, model)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Json:
    """Both, level by level; what `other` says wins."""
    both = dict(one)
    for name, value in other.items():
        before = both.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            both[name] = _merged(before, value)
        else:
            both[name] = value
    return both
