"""Ports for servers that tests start, of which each stays its test's own.

A port that was found free by binding it and closing again is given to whoever asks next, in another
worker say, before the server has begun to listen. Here the socket stays bound: the kernel offers
its port to nobody, connections to it are refused, and a server that sets SO_REUSEADDR, as ours and
those of the libraries do, may yet listen there.
"""

from __future__ import annotations

import socket
from collections import deque

_MOST_KEPT = 200  # far more than are waited for at once
_kept: deque[socket.socket] = deque()


def free_port(host: str = "127.0.0.1") -> int:
    """Of this address; raises OSError where the machine has no such address."""
    keeper = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _kept.append(keeper)
    if len(_kept) > _MOST_KEPT:
        _kept.popleft().close()
    keeper.bind((host, 0))
    return int(keeper.getsockname()[1])
