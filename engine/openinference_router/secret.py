"""A Secret of the namespace, read again and again so that it changes without a restart.

Read by name only: the router may not list Secrets, so there is nothing to watch.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from kubernetes.aio import client

READ_SECONDS = 10.0

_log = logging.getLogger(__name__)


class _Secret(msgspec.Struct):
    data: dict[str, str] | None = None


async def contents(
    api: client.CoreV1Api, namespace: str, name: str
) -> AsyncIterator[dict[str, bytes] | None]:
    """Its entries, each time that it could be read; None while it does not exist. Never ends."""
    while True:
        try:
            secret = await _read(api, namespace, name)
            yield None if secret is None else _decode(secret.data or {})
        except (client.ApiException, aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            _log.warning("secret unknown", extra={"secret": name, "reason": reason})
        await asyncio.sleep(READ_SECONDS)


def _decode(data: dict[str, str]) -> dict[str, bytes]:
    return {entry: base64.b64decode(text) for entry, text in data.items()}


async def _read(api: client.CoreV1Api, namespace: str, name: str) -> _Secret | None:
    response = await api.read_namespaced_secret_without_preload_content(
        name, namespace, _request_timeout=READ_SECONDS
    )
    try:
        if response.status == 404:
            return None
        response.raise_for_status()
        return msgspec.json.decode(await response.read(), type=_Secret)
    finally:
        response.release()
