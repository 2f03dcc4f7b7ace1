"""The link between ranks: who may end a group by going away, and who is nobody to it."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator

import pytest
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
    assert ends.get(timeout=60) == "the link to another rank closed or fell silent"


def test_rank_whose_leader_is_none_does_not_wait_for_it(ends: queue.Queue[str]) -> None:
    """What listens there now is another program."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rank = RankLink("127.0.0.1", listener.getsockname()[1], 1, ends.put)
        listener.accept()[0].close()
        assert ends.get(timeout=60) == "the link to another rank closed or fell silent"
        rank.close()
