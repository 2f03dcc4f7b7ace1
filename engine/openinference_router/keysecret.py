"""The Secret that holds the API keys, read again and again so that keys change without a restart.

Read by name only: the router may not list Secrets. Entries are base64 of what `keys` describes. A
document that cannot be read is logged by its name, and the last good version of that key stays.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from kubernetes.aio import client

from openinference_router.keys import Key

READ_SECONDS = 10.0

_log = logging.getLogger(__name__)


class _Secret(msgspec.Struct):
    data: dict[str, str] | None = None


class KeySecret:
    """Keeps the good keys by name."""

    def __init__(self, api: client.CoreV1Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._keys: dict[str, Key] = {}

    async def snapshots(self) -> AsyncIterator[dict[str, Key] | None]:
        """All keys, each time that the Secret could be read; None without entries. Never ends."""
        while True:
            try:
                entries = (await self._read()).data
                self._keys = self._decode(entries or {})
                yield self._keys if entries else None
            except (client.ApiException, aiohttp.ClientError, OSError, ValueError) as error:
                _log.warning("keys unknown", extra={"reason": str(error).split("\n")[0]})
            await asyncio.sleep(READ_SECONDS)

    async def _read(self) -> _Secret:
        """The Secret as it is; one that does not exist holds no key."""
        response = await self._api.read_namespaced_secret_without_preload_content(
            self._name, self._namespace, _request_timeout=READ_SECONDS
        )
        try:
            if response.status == 404:
                return _Secret()
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=_Secret)
        finally:
            response.release()

    def _decode(self, entries: dict[str, str]) -> dict[str, Key]:
        keys: dict[str, Key] = {}
        for name, encoded in entries.items():
            try:
                keys[name] = msgspec.json.decode(base64.b64decode(encoded), type=Key)
            except (msgspec.MsgspecError, binascii.Error) as error:
                _log.error("key ignored", extra={"key": name, "reason": str(error)})
                if name in self._keys:
                    keys[name] = self._keys[name]
        return keys
