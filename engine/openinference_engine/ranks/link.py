"""The link between rank 0 and the others: steps one way, a few words the other, and its own pulse.

ZeroMQ exchanges heartbeats in a thread of its own, so a rank that computes is alive and one that
was stopped, died or lost its network is not. A `Watch` ends the process when the link says so.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import zmq

from openinference_engine.errors import StartError
from openinference_engine.ranks.addresses import joined
from openinference_engine.ranks.messages import (
    Failed,
    FromRank,
    Joined,
    Leaving,
    Ready,
    ToRank,
)
from openinference_engine.ranks.watch import LOOK_MILLISECONDS, End, Watch, end_process

# A group is to be unready 5 s after it lost a link. A silence is found within 2.35 s (with a beat
# and a look), pod 0's last answers take 0.5 s, the kubelet looks for ended containers every second
# and reports 0.3 s later: 4.2 s, and half a second more where a GPU takes no word. With fifteen
# busy processes on two cores, healthy links were silent for more than 0.4 s twice in two minutes,
# never for 0.6 s; TCP sends a lost packet again after 0.2, 0.6 and 1.4 s.
_BEAT_MILLISECONDS = 250
_SILENCE_MILLISECONDS = 2000
_LAST_WORD_SECONDS = 0.5


class LeaderLink:
    """Rank 0's end: a message goes to every rank that has said that it is ready."""

    def __init__(self, host: str, end: End = end_process) -> None:
        """Listens on a port of its own, on the interface `host` ("*": on all)."""
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        _configure(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.watch = Watch(self._socket, end, _LAST_WORD_SECONDS)
        self.on_close: Callable[[], None] = lambda: None  # what else ends with it
        self.port: int = self._socket.bind_to_random_port(f"tcp://{host}")
        self._joined: set[bytes] = set()
        self._ready: set[bytes] = set()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)

    def await_joined(self, num_others: int) -> None:
        """Until all have connected. From then on, the loss of one is the end of the group."""
        self._await(self._joined, num_others)

    def await_ready(self, num_others: int) -> None:
        """Until all have loaded. Raises StartError with what one of them says instead."""
        self._await(self._ready, num_others)
        self.watch.last_word_seconds = 0

    def send(self, message: ToRank) -> None:
        data = self._encoder.encode(message)
        for name in self._ready:
            self._socket.send_multipart([name, data])

    def is_leaving(self) -> bool:
        """Whether a pod of the group was told to terminate since the last look."""
        found = False
        while self._socket.poll(0):
            found |= isinstance(self._receive()[1], Leaving)
        return found

    def close(self) -> None:
        self.watch.close()
        self._socket.close(linger=0)
        self.on_close()

    def _await(self, names: set[bytes], number: int) -> None:
        while len(names) < number:
            name, message = self._receive()
            match message:
                case Joined():
                    self._joined.add(name)
                case Ready():
                    self._ready.add(name)
                case Failed(reason):
                    raise StartError(f"rank {name.decode()}: {reason}")
                case Leaving():
                    raise StartError(f"rank {name.decode()} was told to terminate while it loaded")

    def _receive(self) -> tuple[bytes, FromRank]:
        name, data = self._socket.recv_multipart(copy=False)
        self.watch.trust(data.get(zmq.SRCFD), name.bytes.decode(errors="replace"))
        return name.bytes, self._decoder.decode(data.buffer)


class RankLink:
    """Another rank's end."""

    def __init__(self, host: str, port: int, rank: int, end: End = end_process) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _configure(self._socket)
        self._socket.setsockopt(zmq.IDENTITY, str(rank).encode())
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.watch = Watch(self._socket, end)
        self._socket.connect(f"tcp://{joined(host, port)}")
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
        self.send(Joined())

    def send(self, message: FromRank) -> None:
        self._socket.send(self._encoder.encode(message))

    def receive(self) -> ToRank | None:
        """The next step; None when the group has ended."""
        while not self.watch.has_ended:
            if self._socket.poll(LOOK_MILLISECONDS):
                return self._decoder.decode(self._socket.recv())
        return None

    def close(self) -> None:
        self.watch.close()
        self._socket.close(linger=1000)  # for the last word to leave


def _configure(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.SNDHWM, 0)  # steps under way are bounded by the stages
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _BEAT_MILLISECONDS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENCE_MILLISECONDS)
