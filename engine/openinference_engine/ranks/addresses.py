"""Where ranks meet: host and port as flags say them, listened at or reached."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

from openinference_engine.errors import StartError
from openinference_engine.ranks.deadline import Deadline

LOOPBACK = "127.0.0.1"
RETRY_SECONDS = 0.25


def split(rendezvous: str) -> tuple[str, int]:
    """host:port. Raises StartError for what is none."""
    with suppress(ValueError):  # no number, or no port there can be
        parts = urlsplit(f"//{rendezvous}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    raise StartError(
        f"--rendezvous {rendezvous} is no host:port; use for example pod-0.groups:8001 or "
        "[fd00::1]:8001"
    )


def joined(host: str, port: int) -> str:
    """host:port; an address of IPv6 stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(port: int) -> socket.socket:
    """On all interfaces. Raises StartError if the port is taken."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128
            )
        return socket.create_server(("", port), backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StartError(f"cannot listen on port {port} for ranks: {reason}; free it") from error


def reach(rendezvous: str, deadline: Deadline) -> tuple[str, str]:
    """Connects as soon as the name and the port are there: this end's address, the other's.

    Raises StartError if they are not in time.
    """
    host, port = split(rendezvous)
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                return connection.getsockname()[0], connection.getpeername()[0]
        except OSError as error:
            if deadline.is_over:
                raise StartError(
                    f"rank 0 was not at {rendezvous} within {deadline.seconds:g} s ({error}); "
                    "see whether pod 0 of the group runs"
                ) from error
        time.sleep(RETRY_SECONDS)
