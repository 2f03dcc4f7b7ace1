"""Server-sent events as bytes: cut a stream into events, and spell one.

Knows nothing of what an event means. Chunks of the network end anywhere, so the splitter keeps
the unfinished tail; its size is bounded because a peer may never end an event.
"""

from collections.abc import Iterator

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx in front would otherwise hold events back
}
COMMENT = b": waiting for a replica\n\n"
DONE = b"[DONE]"
MAX_EVENT_BYTES = 4 * 2**20


class Splitter:
    """Cuts a byte stream into the `data` of its events; comments and other fields are dropped."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that `chunk` completes.

        Raises ValueError when one event outgrows MAX_EVENT_BYTES.
        """
        *events, self._tail = (self._tail + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._tail) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return filter(None, map(_data, events))


def _data(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:  # as our engine writes them all
        return event[6:]
    lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def event(data: bytes, name: str | None = None) -> bytes:
    """One event on the wire; `data` holds no line break."""
    prefix = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (prefix, data)
