"""The link between ranks: who may end a group by going away, and who is nobody to it."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zmq
from openinference_engine.errors import EXIT_RANK_LOST
from openinference_engine.ranks.link import LeaderLink, RankLink

ZMTP_GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL".ljust(64, b"\0")  # rfc.zeromq.org/spec/23
LOOK_SECONDS = 0.5  # several looks of the watch


@pytest.fixture
def ends() -> queue.Queue[str]:
    """Why the links of a test ended their processes, were they the only ones there."""
    return queue.Queue()


@pytest.fixture
def leader(ends: queue.Queue[str]) -> Iterator[LeaderLink]:
    link = LeaderLink("127.0.0.1", ends.put)
    yield link
    link.close()


class Relay:
    """Passes bytes on between a rank and the leader, until it is cut."""

    def __init__(self, port: int) -> None:
        self.is_cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._leader = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, self._leader, self._rank):
            each.close()

    def _accept(self) -> None:
        self._rank, _ = self._listener.accept()
        for ends in ((self._rank, self._leader), (self._leader, self._rank)):
            threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while data := source.recv(4096):
                if not self.is_cut.is_set():
                    sink.sendall(data)


@pytest.fixture
def relay(leader: LeaderLink) -> Iterator[Relay]:
    relay = Relay(leader.port)
    yield relay
    relay.close()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="a port scan"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: rank-0\r\n\r\n", id="a probe over HTTP"),
        pytest.param(bytes(64), id="a name server's query"),  # an empty message in ZMTP 1.0
        pytest.param(ZMTP_GREETING, id="half a handshake"),
    ],
)
def test_stranger_that_comes_and_goes_ends_no_group(
    leader: LeaderLink, ends: queue.Queue[str], said: bytes
) -> None:
    rank = RankLink("127.0.0.1", leader.port, 1, lambda reason: None)
    leader.await_joined(1)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", leader.port)) as stranger:
            stranger.sendall(said)
    with pytest.raises(queue.Empty):
        ends.get(timeout=LOOK_SECONDS)
    rank.close()
    assert ends.get(timeout=60) == "the link to rank 1 closed or fell silent"


def test_rank_whose_leader_is_none_does_not_wait_for_it(ends: queue.Queue[str]) -> None:
    """What listens there now is another program."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rank = RankLink("127.0.0.1", listener.getsockname()[1], 1, ends.put)
        listener.accept()[0].close()
        assert ends.get(timeout=60) == "the link to rank 0 closed or fell silent"
        rank.close()


def test_link_that_falls_silent_ends_its_group_though_nothing_is_closed(
    leader: LeaderLink, ends: queue.Queue[str], relay: Relay
) -> None:
    """As when a cable is cut, or a whole machine stands still."""
    rank = RankLink("127.0.0.1", relay.port, 1, ends.put)
    leader.await_joined(1)
    relay.is_cut.set()
    reasons = {ends.get(timeout=60) for _ in ("leader", "rank")}
    assert reasons == {f"the link to rank {rank} closed or fell silent" for rank in (0, 1)}
    rank.close()


def test_step_that_takes_too_long_says_how_long_it_might(
    leader: LeaderLink, ends: queue.Queue[str]
) -> None:
    leader.watch.expect(0.25)
    assert ends.get(timeout=60) == "a step took longer than 0.25 s"


def test_rank_ends_whose_gpu_takes_no_word_any_more(
    leader: LeaderLink, ends: queue.Queue[str]
) -> None:
    """The watch told the kernels to give up before it ended the process, and waited for that: of a
    driver that has lost its GPU for ever.
    """
    answers = threading.Event()
    leader.watch.before_end = lambda: answers.wait(60)
    leader.watch.expect(0.0)
    assert ends.get(timeout=60).startswith("a step")
    answers.set()


def test_rank_ends_whose_gpu_refuses_every_word(leader: LeaderLink, ends: queue.Queue[str]) -> None:
    """Behind an illegal access each call of the driver fails, and the first ended the watch."""

    def refuse() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    leader.watch.before_end = refuse
    leader.watch.expect(0.0)
    assert ends.get(timeout=60).startswith("a step")


def test_rank_that_leaves_while_the_leader_closes_holds_up_no_other_link(
    leader: LeaderLink,
) -> None:
    """One thread carries the bytes of all, and waited for ever to tell that it had left."""
    leaving = RankLink("127.0.0.1", leader.port, 1, lambda reason: None)
    leader.await_joined(1)
    leader.watch.close()
    leaving.close()
    context = zmq.Context.instance()
    with context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.connect(f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}")
        for _ in range(5):
            time.sleep(LOOK_SECONDS / 5)
            one.send(b"still there?")
            assert other.poll(60_000)
            other.recv()


IMPATIENT_RANK = """
import sys, time
from openinference_engine.ranks.link import RankLink
link = RankLink("127.0.0.1", int(sys.argv[1]), 1)
sys.stdin.readline()  # until it has joined
link.watch.expect(0.2)
time.sleep(600)
"""


def test_rank_that_gives_up_a_step_ends_the_others_before_their_time(
    leader: LeaderLink, ends: queue.Queue[str]
) -> None:
    """Its process ends whatever it waits for, and its link says so at once."""
    leader.watch.expect(3600)
    command = [sys.executable, "-c", IMPATIENT_RANK, str(leader.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as rank:
        leader.await_joined(1)
        rank.communicate(b"\n")
        assert ends.get(timeout=60) == "the link to rank 1 closed or fell silent"
    assert rank.returncode == EXIT_RANK_LOST
