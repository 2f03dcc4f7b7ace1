"""One attempt at one engine: send the request, yield what comes back, say how it ended.

Every way in which an engine can fail to answer becomes AttemptFailed here; its own refusals of
the request (400, 404, 413, 500) are answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import msgspec

from openinference_router import sse
from openinference_router.errors import AttemptFailed

# Not now, but elsewhere or later: draining, full, or a token that is being replaced.
DECLINES = {401: "refused the token", 429: "is full", 503: "is not ready"}

PASSED_ON = ("Content-Type", "Retry-After")


class Usage(msgspec.Struct):
    completion_tokens: int = 0
    total_tokens: int = 0


class _Measured(msgspec.Struct):
    usage: Usage = msgspec.field(default_factory=Usage)


_decode_measured = msgspec.json.Decoder(_Measured).decode

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=3.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def usage(self) -> Usage:
        """Zeros where it says none."""
        try:
            return _decode_measured(self.body).usage
        except msgspec.MsgspecError:
            return Usage()


class Upstream:
    """An open response of one engine: `events` when it `is_stream`, else one `answer`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._splitter = sse.Splitter()
        self.is_stream = response.content_type == "text/event-stream"

    async def answer(self) -> Answer:
        """Read it whole: an answer cut in the middle can be asked for again."""
        try:
            body = await self._response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed(f"cut its answer: {error!r}") from error
        headers = self._response.headers
        passed_on = {name: headers[name] for name in PASSED_ON if name in headers}
        return Answer(self._response.status, passed_on, body)

    async def events(self) -> list[bytes] | None:
        """The data of the events that came together (perhaps none yet); None at the end."""
        try:
            chunk = await self._read()
            return list(self._splitter.feed(chunk)) if chunk else None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AttemptFailed(f"cut its stream: {error!r}") from error

    async def _read(self) -> bytes:
        """Some bytes; nothing at the end. Raises only when all that came before was read.

        After a connection broke, aiohttp keeps what arrived and gives it to nobody. A client would
        get it again from another replica; but an attempt without any of it counts as got nowhere.
        """
        content = self._response.content
        try:
            return await content.readany()
        except (aiohttp.ClientError, OSError):
            if unread := content._read_nowait(-1):
                return unread
            raise

    def close(self) -> None:
        """Give the connection back when the response was read to its end, else close it."""
        self._response.release()


async def open_upstream(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes
) -> Upstream:
    """POST to an engine and wait for its status line."""
    try:
        response = await session.post(url, data=body, headers=headers, timeout=_TIMEOUT)
    except (aiohttp.ClientError, OSError) as error:
        raise AttemptFailed(f"gave no answer: {error!r}") from error
    if (reason := DECLINES.get(response.status)) is not None:
        response.close()
        raise AttemptFailed(reason, is_broken=False)
    return Upstream(response)
