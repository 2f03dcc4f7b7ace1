"""Who may ask, how much, and in which class: API keys, of which only hashes are ever known here.

A Secret holds one entry per key, the key's name → JSON such as
    {"sha256": "<hex digest of the key>", "priority": "high", "requestsPerMinute": 60,
     "tokensPerMinute": 100000, "concurrency": 8}
Without a Secret the router is open; one without entries lets nobody in. Each router pod grants
its part of the limits, so they are approximate. Tokens count when a request ends, so the last one
may overdraw.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    tokens_per_minute: Positive | None = None
    concurrency: Positive | None = None


class Bucket:
    """What may still be used: refills by the minute, and may be overdrawn."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._left = self._per_minute = per_minute
        self._updated_at = now

    def seconds_until(self, amount: float, now: float) -> float:
        """How long until so much is there; 0 when it is."""
        passed, self._updated_at = now - self._updated_at, now
        self._left = min(self._per_minute, self._left + passed * self._per_minute / 60)
        return max(0.0, (amount - self._left) * 60 / self._per_minute)

    def take(self, amount: float) -> None:
        self._left -= amount


class Allowance:
    """What one key has used at this router pod, which is one of `replicas`."""

    def __init__(self, key: Key, replicas: int, now: float) -> None:
        self.key = key
        self.open_requests = 0
        self._replicas = replicas
        self._requests = self._bucket(key.requests_per_minute, now)
        self._tokens = self._bucket(key.tokens_per_minute, now)

    def take(self, now: float) -> None:
        """Count a request in. Raises Refusal 429 when the key has no more."""
        limit = self.key.concurrency
        if limit is not None and self.open_requests >= math.ceil(limit / self._replicas):
            raise _too_many(f"{limit} requests of this key are open already", 1)
        if self._tokens and (wait_seconds := self._tokens.seconds_until(1, now)):
            rate = self.key.tokens_per_minute
            raise _too_many(f"this key may use {rate} tokens a minute", wait_seconds)
        if self._requests:
            if wait_seconds := self._requests.seconds_until(1, now):
                rate = self.key.requests_per_minute
                raise _too_many(f"this key may ask {rate} times a minute", wait_seconds)
            self._requests.take(1)
        self.open_requests += 1

    def give_back(self, num_tokens: int) -> None:
        """The request is over and has used so many tokens: how many is not known before."""
        self.open_requests -= 1
        if self._tokens:
            self._tokens.take(num_tokens)

    def change(self, key: Key, now: float) -> None:
        """New limits; what was used stays used."""
        if key.requests_per_minute != self.key.requests_per_minute:
            self._requests = self._bucket(key.requests_per_minute, now)
        if key.tokens_per_minute != self.key.tokens_per_minute:
            self._tokens = self._bucket(key.tokens_per_minute, now)
        self.key = key

    def _bucket(self, per_minute: int | None, now: float) -> Bucket | None:
        return Bucket(max(1.0, per_minute / self._replicas), now) if per_minute else None


@dataclass(slots=True)
class Admission:
    """One request that was let in; whoever serves it says what it used."""

    caller: Caller
    num_tokens: int = 0


class KeyRing:
    """The keys of one namespace, changed as a whole by `replace`.

    One that `is_known` from the start is open to anybody; else nobody passes before `replace`.
    """

    def __init__(
        self, *, is_known: bool, replicas: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_known = is_known
        self._replicas = replicas
        self._is_open = is_known
        self._clock = clock
        self._names: dict[str, str] = {}
        self._allowances: dict[str, Allowance] = {}

    def names(self) -> list[str]:
        return list(self._allowances)

    def replace(self, keys: Mapping[str, Key] | None) -> None:
        """None opens the router; an empty mapping closes it."""
        self.is_known, self._is_open = True, keys is None
        keys = keys or {}
        for name in self._allowances.keys() - keys.keys():
            del self._allowances[name]
        for name, key in keys.items():
            if name in self._allowances:
                self._allowances[name].change(key, self._clock())
            else:
                self._allowances[name] = Allowance(key, self._replicas, self._clock())
        self._names = {key.sha256: name for name, key in keys.items()}

    def check(self, authorization: str) -> None:
        """Let pass who may ask at all, and count nothing. Raises Refusal 401, or 503 too early."""
        self._check_known()
        if not self._is_open:
            self._name(authorization)

    @contextlib.contextmanager
    def admit(self, authorization: str) -> Iterator[Admission]:
        """The caller behind an Authorization header, counted while the request is open.

        Raises Refusal: 401 for a wrong or missing key, 429 for one that has used up its limits.
        """
        self._check_known()
        if self._is_open:
            yield Admission(ANYBODY)
            return
        name = self._name(authorization)
        allowance = self._allowances[name]
        allowance.take(self._clock())
        admission = Admission(Caller(name, PRIORITIES[allowance.key.priority]))
        try:
            yield admission
        finally:
            allowance.give_back(admission.num_tokens)

    def _check_known(self) -> None:
        if not self.is_known:
            raise unavailable("the API keys were not read yet", code="keys_unknown")

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


def _too_many(message: str, wait_seconds: float) -> Refusal:
    return Refusal(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_seconds=math.ceil(wait_seconds),
    )
