"""One request and what its client saw of the answer.

Owns the answer's side of the OpenAI wire: bodies, streams of server-sent events, their times.
Knows nothing of right or wrong (that is `verdict.py`) and never raises for what a service may
do: whatever happens on the wire ends up in the `Transcript`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp

from e2e.asks import Ask, Json

# Said by the router about who answered; absent when an engine is asked directly.
GROUP_HEADER = "x-openinference-group"
REVISION_HEADER = "x-openinference-revision"


class Trouble(StrEnum):
    """How the wire, rather than the answer, failed."""

    UNREACHABLE = "unreachable"  # no connection, so nothing was admitted
    CUT = "cut"
    HUNG = "hung"
    ERROR = "error"


@dataclass(slots=True, eq=False)
class Transcript:
    """What a client saw of one request, filled in as it arrives. Times are `time.monotonic()`."""

    ask: Ask
    sent_at: float = field(default_factory=time.monotonic)
    first_token_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    group: str = ""
    revision: str = ""
    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    is_done: bool = False  # a stream said [DONE], or a whole body arrived
    trouble: Trouble | None = None
    detail: str = ""

    @property
    def is_streaming(self) -> bool:
        """True while tokens are on their way: some came, more are due."""
        return self.first_token_at is not None and self.ended_at is None

    @property
    def time_to_first_token_seconds(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self.sent_at

    @property
    def duration_seconds(self) -> float:
        return (self.ended_at or time.monotonic()) - self.sent_at

    def take_event(self, data: str) -> None:
        """Fold in the `data:` of one server-sent event."""
        if data == "[DONE]":
            self.is_done = True
            return
        self._take(json.loads(data))

    def take_body(self, body: Json) -> None:
        """Fold in the whole answer of a request that was not streamed."""
        self._take(body)
        self.is_done = True

    def fail(self, trouble: Trouble, detail: str) -> None:
        """Keep the first trouble: what follows from it explains nothing."""
        if self.trouble is None:
            self.trouble, self.detail = trouble, detail

    def _take(self, payload: Json) -> None:
        if "error" in payload:
            self.fail(Trouble.ERROR, _error_message(payload))
            return
        for choice in payload.get("choices", []):
            self._take_text(_choice_text(choice))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if usage := payload.get("usage"):
            self.completion_tokens = usage["completion_tokens"]

    def _take_text(self, text: str) -> None:
        if text and self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.text += text


async def exchange(
    session: aiohttp.ClientSession,
    base_url: str,
    model: str,
    transcript: Transcript,
    deadline_seconds: float,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Send the transcript's ask and fill the transcript; `on_progress` runs at each event."""
    url = f"{base_url}/v1/{transcript.ask.api}"
    try:
        async with (
            asyncio.timeout(deadline_seconds),
            session.post(url, json=transcript.ask.body(model)) as response,
        ):
            await _read(response, transcript, on_progress)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        transcript.fail(Trouble.UNREACHABLE, str(error))
    except TimeoutError:
        transcript.fail(Trouble.HUNG, f"no end within {deadline_seconds:g} s")
    except (aiohttp.ClientError, ConnectionError) as error:
        transcript.fail(Trouble.CUT, str(error) or type(error).__name__)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        transcript.fail(Trouble.ERROR, f"not an OpenAI answer: {error!r}")
    finally:
        transcript.ended_at = time.monotonic()
        on_progress()


async def _read(
    response: aiohttp.ClientResponse, transcript: Transcript, on_progress: Callable[[], None]
) -> None:
    transcript.status = response.status
    transcript.group = response.headers.get(GROUP_HEADER, "")
    transcript.revision = response.headers.get(REVISION_HEADER, "")
    if response.status != 200:
        message = _error_message(await _json_or_text(response))
        transcript.fail(Trouble.ERROR, f"HTTP {response.status}: {message}")
    elif transcript.ask.is_streamed:
        async for line in response.content:
            if line.startswith(b"data:"):
                transcript.take_event(line.removeprefix(b"data:").decode().strip())
                on_progress()
    else:
        transcript.take_body(json.loads(await response.text()))


async def _json_or_text(response: aiohttp.ClientResponse) -> Json:
    text = await response.text()
    try:
        body = json.loads(text)
    except ValueError:
        return {"error": {"message": text[:200]}}
    return body if isinstance(body, dict) else {}


def _error_message(payload: Json) -> str:
    error = payload.get("error")
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _choice_text(choice: Json) -> str:
    """The text of a choice in each of the four shapes: streamed or not, chat or not."""
    message = choice.get("delta") or choice.get("message") or choice
    return message.get("content") or message.get("text") or ""
