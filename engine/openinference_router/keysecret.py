"""The Secret that holds the API keys; its entries are what `keys` describes.

A document that cannot be read is logged by its name, and the last good version of that key stays.
"""

import logging
from collections.abc import AsyncIterator

import msgspec
from kubernetes.aio import client

from openinference_router import secret
from openinference_router.keys import Key

_log = logging.getLogger(__name__)


class KeySecret:
    """Keeps the good keys by name."""

    def __init__(self, api: client.CoreV1Api, namespace: str, name: str) -> None:
        self._contents = secret.contents(api, namespace, name)
        self._keys: dict[str, Key] = {}

    async def snapshots(self) -> AsyncIterator[dict[str, Key] | None]:
        """All keys, each time that the Secret could be read; None without a Secret. Never ends.

        A Secret whose last key was deleted is a Secret: it lets nobody in.
        """
        async for entries in self._contents:
            self._keys = self._decode(entries or {})
            yield None if entries is None else self._keys

    def _decode(self, entries: dict[str, bytes]) -> dict[str, Key]:
        keys: dict[str, Key] = {}
        for name, document in entries.items():
            try:
                keys[name] = msgspec.json.decode(document, type=Key)
            except msgspec.MsgspecError as error:
                _log.error("key ignored", extra={"key": name, "reason": str(error)})
                if name in self._keys:
                    keys[name] = self._keys[name]
        return keys
