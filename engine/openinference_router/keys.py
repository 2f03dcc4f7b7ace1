"""Who may ask, how much, and in which class: API keys, of which only hashes are ever known here.

A Secret holds one entry per key, the key's name → JSON such as
    {"sha256": "<hex digest of the key>", "priority": "high", "requestsPerMinute": 60,
     "concurrency": 8}
Without entries, or without a Secret, the router is open. Limits count at this router pod alone.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from openinference_router.errors import Refusal, unavailable
from openinference_router.waiting import Caller

PRIORITIES = {"high": 0, "normal": 1, "low": 2}
ANYBODY = Caller()

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Key(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One entry of the Secret. A misspelt limit must not be no limit: unknown fields are errors."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    priority: Literal["high", "normal", "low"] = "normal"
    requests_per_minute: Positive | None = None
    concurrency: Positive | None = None


class Allowance:
    """What one key has used: a bucket of requests that refills by the minute, and what is open."""

    def __init__(self, key: Key, now: float) -> None:
        self.key = key
        self.open_requests = 0
        self._left = float(key.requests_per_minute or 0)
        self._updated_at = now

    def take(self, now: float) -> None:
        """Count a request in. Raises Refusal 429 when the key has no more."""
        limit = self.key.concurrency
        if limit is not None and self.open_requests >= limit:
            raise _too_many(f"{limit} requests of this key are open already", retry_after_seconds=1)
        if (rate := self.key.requests_per_minute) is not None:
            self._left = min(rate, self._left + (now - self._updated_at) * rate / 60)
            self._updated_at = now
            if self._left < 1:
                wait_seconds = round((1 - self._left) * 60 / rate + 0.5)
                raise _too_many(f"this key may ask {rate} times a minute", wait_seconds)
            self._left -= 1
        self.open_requests += 1

    def change(self, key: Key) -> None:
        """New limits; what was used stays used."""
        if key.requests_per_minute != self.key.requests_per_minute:
            self._left = float(key.requests_per_minute or 0)
        self.key = key


class KeyRing:
    """The keys of one namespace, changed as a whole by `replace`.

    One that `is_known` from the start is open to anybody; else nobody passes before `replace`.
    """

    def __init__(self, *, is_known: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_known = is_known
        self._is_open = is_known
        self._clock = clock
        self._names: dict[str, str] = {}
        self._allowances: dict[str, Allowance] = {}

    def replace(self, keys: Mapping[str, Key] | None) -> None:
        """None opens the router; an empty mapping closes it."""
        self.is_known, self._is_open = True, keys is None
        keys = keys or {}
        for name in self._allowances.keys() - keys.keys():
            del self._allowances[name]
        for name, key in keys.items():
            if name in self._allowances:
                self._allowances[name].change(key)
            else:
                self._allowances[name] = Allowance(key, self._clock())
        self._names = {key.sha256: name for name, key in keys.items()}

    @contextlib.contextmanager
    def admit(self, authorization: str) -> Iterator[Caller]:
        """The caller behind an Authorization header, counted while the request is open.

        Raises Refusal: 401 for a wrong or missing key, 429 for one that has used up its limits.
        """
        if not self.is_known:
            raise unavailable("the API keys were not read yet", code="keys_unknown")
        if self._is_open:
            yield ANYBODY
            return
        name = self._name(authorization)
        allowance = self._allowances[name]
        allowance.take(self._clock())
        try:
            yield Caller(name, PRIORITIES[allowance.key.priority])
        finally:
            allowance.open_requests -= 1

    def _name(self, authorization: str) -> str:
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="replace")).hexdigest()
        name = self._names.get(digest) if scheme.lower() == "bearer" else None
        if name is None:
            raise Refusal(
                401,
                "the API key is missing or wrong; send it as 'Authorization: Bearer <key>'",
                kind="authentication_error",
                code="invalid_api_key",
            )
        return name


def _too_many(message: str, retry_after_seconds: int) -> Refusal:
    return Refusal(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_seconds=retry_after_seconds,
    )
