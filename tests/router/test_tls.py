"""The port for TLS: it opens with the first certificate, and a renewal disturbs nobody."""

import asyncio
import contextlib
import math
import ssl
import subprocess
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from kubernetes.aio import client, config
from openinference_router import secret
from openinference_router.door import Door, make_runner
from openinference_router.metrics import Metrics
from openinference_router.tls import Certificate, renewals

from tests.ports import free_port


@pytest.fixture
def make_pair(tmp_path):
    """A self-signed certificate for `localhost` under a name, as entries of a Secret."""

    def make(name: str) -> dict[str, str]:
        chain, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        words = [
            *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", key, "-out", chain),
        ]
        subprocess.run(words, check=True, capture_output=True)
        return {"tls.crt": chain.read_text(), "tls.key": key.read_text()}

    return make


@pytest.fixture
async def door(api_server, tmp_path, monkeypatch):
    """A port that opens with the certificate of the played API server."""
    monkeypatch.setattr(secret, "READ_SECONDS", 0.05)
    await config.load_kube_config(str(api_server.kubeconfig(tmp_path)))
    runner = make_runner(web.Application(), 0.1)
    await runner.setup()
    port, opened = free_port(), Door(runner, "127.0.0.1")

    async def follow(api: client.ApiClient) -> None:
        certificate = Certificate()
        names = ("team-a", "openinference-tls")
        async for _ in renewals(certificate, client.CoreV1Api(api), *names):
            await opened.open(port, certificate.context)

    async with client.ApiClient() as api, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(api))
        yield port
        following.cancel()
    await runner.cleanup()


@contextlib.asynccontextmanager
async def connected(port: int, pair: dict[str, str]) -> AsyncIterator[tuple]:
    """A connection that trusts this certificate and no other."""
    context = ssl.create_default_context(cadata=pair["tls.crt"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def until_served(port: int, pair: dict[str, str]) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                async with connected(port, pair):
                    return
            await asyncio.sleep(0.05)


async def answer_of(connection: tuple) -> bytes:
    reader, writer = connection
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return await reader.readuntil(b"\r\n\r\n")


async def test_the_port_opens_with_the_certificate_and_a_renewal_disturbs_nobody(
    api_server, door, make_pair
):
    with pytest.raises(ConnectionRefusedError):
        async with connected(door, make_pair("nobody")):
            pass
    old, new = make_pair("old"), make_pair("new")
    api_server.tls_secret = old
    await until_served(door, old)
    async with connected(door, old) as before:
        api_server.tls_secret = new
        await until_served(door, new)
        assert b"404" in await answer_of(before)
    with pytest.raises(ssl.SSLCertVerificationError):
        async with connected(door, old):
            pass


@pytest.mark.parametrize(
    "flaw", [{"tls.crt": "no PEM"}, {"tls.key": "no PEM"}, {"tls.key": ""}], ids=str
)
async def test_of_a_bad_pair_the_last_good_one_stays(
    api_server, door, make_pair, caplog, until, flaw
):
    good = make_pair("good")
    api_server.tls_secret = good
    await until_served(door, good)
    api_server.tls_secret = good | flaw
    await until(lambda: "certificate ignored" in [each.getMessage() for each in caplog.records])
    async with connected(door, good) as connection:
        assert b"404" in await answer_of(connection)
    assert "PRIVATE KEY" not in " ".join(str(vars(record)) for record in caplog.records)


async def test_the_end_of_the_certificate_is_told_and_nothing_before_there_is_one(make_pair):
    certificate, metrics = Certificate(), Metrics("team-a", list)
    assert b"certificate_expiry_timestamp_seconds{" not in metrics.text()
    pair = make_pair("mine")
    certificate.load(pair["tls.crt"].encode(), pair["tls.key"].encode())
    metrics.certificate_loaded(certificate.expires_at)
    name = "openinference_router_certificate_expiry_timestamp_seconds"
    told = metrics.registry.get_sample_value(name, {"inference_namespace": "team-a"})
    assert abs(told - time.time() - 24 * 3600) < 600, "openssl was asked for one day"


async def test_a_key_of_another_certificate_is_a_bad_pair(make_pair):
    one, other = make_pair("one"), make_pair("other")
    certificate = Certificate()
    with pytest.raises(ssl.SSLError):
        certificate.load(one["tls.crt"].encode(), other["tls.key"].encode())


async def test_a_certificate_whose_end_cannot_be_read_serves_all_the_same(make_pair):
    """OpenSSL takes spellings that a stricter parser does not, and only the metric needs that one.

    The port stayed shut, and each look at the Secret loaded the pair again.
    """
    pair, certificate = make_pair("mine"), Certificate()
    odd = pair["tls.crt"].replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    key = pair["tls.key"].encode()
    certificate.load(pair["tls.crt"].encode(), key)
    assert certificate.load(odd.encode(), key)
    assert math.isnan(certificate.expires_at), "not the end of the one before"
    assert not certificate.load(odd.encode(), key)
