"""What ends a rank when its group is broken: a thread that looks at its links and its deadline.

Every rank for itself, so that no message has to get through. What links carry is not known here.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn, TypeVar

import zmq
from zmq.utils.monitor import recv_monitor_message

from openinference_engine.errors import EXIT_RANK_LOST

LOOK_MILLISECONDS = 100
_ABORT_SECONDS = 0.5
_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

log = logging.getLogger("openinference.ranks")
End = Callable[[str], None]
T = TypeVar("T")


def end_process(reason: str) -> NoReturn:
    """From any thread, whatever the others wait for."""
    log.error("group of ranks ended", extra={"fields": {"reason": reason}})
    os._exit(EXIT_RANK_LOST)


class Watch:
    """Calls `end` once, from its own thread, when the group is broken.

    Anybody may connect and go away again (who scans ports does): only the end of a connection to a
    rank ends the group. One that was made from here leads to rank 0; of one that was accepted,
    `trust` says where it does.
    """

    def __init__(self, socket: zmq.Socket[bytes], end: End, last_word_seconds: float = 0) -> None:
        """last_word_seconds: for the main thread to read why the other end has gone.

        `before_end` may be set: it is called first, and waited for a moment. So may `look`: what
        else breaks the group.
        """
        self.has_ended = False
        self.last_word_seconds = last_word_seconds
        self._end = end
        self._deadline, self._too_late = math.inf, ""
        self._socket, self._monitor = socket, socket.get_monitor_socket(_EVENTS)
        self._open: set[int] = set()  # connections by their file descriptors, as the next two
        self._trusted: dict[int, str] = {}  # and the ranks that they lead to
        self._to_trust: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._is_closing = False
        self.before_end: Callable[[], None] = lambda: None
        self.look: Callable[[], str] = lambda: ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def expect(self, seconds: float, what: str = "a step") -> None:
        """Something begins that may take so long."""
        self._too_late = f"{what} took longer than {seconds:.3g} s"
        self._deadline = time.monotonic() + seconds

    def done(self) -> None:
        self._deadline = math.inf

    def within(self, seconds: float, what: str, work: Callable[[], T]) -> T:
        """What `work` gives, which the group's end does not wait for any longer."""
        self.expect(seconds, what)
        try:
            return work()
        finally:
            self.done()

    def trust(self, connection: int, rank: str) -> None:
        """It spoke through it."""
        self._to_trust.put((connection, rank))

    def close(self) -> None:
        """The link ends on purpose. Called by the thread that the socket belongs to."""
        self._is_closing = True
        self._thread.join()
        # In this order: who has nobody to tell of a connection's end waits for somebody, and with
        # it all sockets of this process.
        self._socket.disable_monitor()
        self._monitor.close()

    def _run(self) -> None:
        while not self._is_closing:
            if reason := self._trouble():
                break
        else:
            return
        time.sleep(self.last_word_seconds)
        if not self._is_closing:
            self.has_ended = True
            self._abort()
            self._end(reason)

    def _abort(self) -> None:
        """A driver that has lost its GPU neither answers nor fails, and the process is to end."""

        def abort() -> None:
            try:
                self.before_end()
            except RuntimeError as error:  # behind a fault each call fails
                log.warning("a GPU takes no word", extra={"fields": {"reason": str(error)}})

        thread = threading.Thread(target=abort, name="abort", daemon=True)
        thread.start()
        thread.join(_ABORT_SECONDS)

    def _trouble(self) -> str | None:
        self._monitor.poll(LOOK_MILLISECONDS)
        if rank := self._lost_rank():
            return f"the link to rank {rank} closed or fell silent"
        if time.monotonic() > self._deadline:
            return self._too_late
        return self.look() or None

    def _lost_rank(self) -> str | None:
        """Reads what happened. A connection is trusted after all that happened before it spoke."""
        speakers = [self._to_trust.get() for _ in range(self._to_trust.qsize())]
        lost: list[str] = []
        while self._monitor.poll(0):
            happened = recv_monitor_message(self._monitor)
            connection = happened["value"]
            if happened["event"] == zmq.EVENT_DISCONNECTED:
                self._open.discard(connection)
                if connection in self._trusted:
                    lost.append(self._trusted[connection])
            else:
                self._open.add(connection)
            if happened["event"] == zmq.EVENT_CONNECTED:
                self._trusted[connection] = "0"
        self._trusted |= dict(speakers)
        lost += [rank for connection, rank in self._trusted.items() if connection not in self._open]
        return lost[0] if lost else None
