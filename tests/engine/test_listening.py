"""Where servers listen when nobody says where: at all addresses, of IPv4 and of IPv6."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from aiohttp import ClientSession, web
from openinference_engine.config import ServerConfig
from openinference_engine.ranks import addresses
from openinference_engine.server import door
from openinference_router.door import Door, make_runner
from openinference_router.settings import Settings
from yarl import URL


@pytest.fixture
def port() -> int:
    """One that is free at all addresses."""
    with addresses.listen(0) as probe:
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture(params=["127.0.0.1", "::1"])
def address(request: pytest.FixtureRequest) -> str:
    try:
        family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
        socket.create_server((request.param, 0), family=family).close()
    except OSError:
        pytest.skip(f"this machine has no {request.param}")
    return str(request.param)


async def status_at(address: str, port: int) -> int:
    url = URL.build(scheme="http", host=address, port=port, path="/")
    async with ClientSession() as session, session.get(url) as answer:
        return answer.status


async def test_engine_is_reached_at_addresses_of_both_families(address: str, port: int) -> None:
    """Where pods have addresses of IPv6 alone, no probe and no router reached it."""
    async with door.opened(web.Application(), ServerConfig().host, port):
        assert await status_at(address, port) == 404


async def test_router_is_reached_at_addresses_of_both_families(address: str, port: int) -> None:
    runner = make_runner(web.Application(), 0.1)
    await runner.setup()
    try:
        await Door(runner, Settings.model_fields["host"].default).open(port)
        assert await status_at(address, port) == 404
    finally:
        await runner.cleanup()


class SocketOfIPv4(socket.socket):
    """As a kernel without IPv6 has them."""

    def __init__(self, family: int = socket.AF_INET, *rest: Any, **more: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *rest, **more)


async def test_engine_listens_where_there_is_no_ipv6(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", SocketOfIPv4)
    async with door.opened(web.Application(), ServerConfig().host, port):
        assert await status_at("127.0.0.1", port) == 404
