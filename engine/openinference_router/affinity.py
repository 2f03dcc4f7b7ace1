"""Where a prompt's beginning is likely to be cached: the same answer on every router pod.

Pure. Groups are ranked for a key by rendezvous hashing (Thaler and Ravishankar 1998): nothing is
stored or shared, and a group that leaves moves only the keys it had. A group is passed over while
it is loaded beyond its share (consistent hashing with bounded loads, arXiv:1608.01350), so one
popular prompt spreads over as many groups as it needs, always in the same order.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from openinference_router.group import Group

MAX_SHARE = 1.25
"""Of the mean load: beyond it a group is passed over. The figure of KubeAI and HAProxy."""

OPENING_BYTES = 2048
"""Of the first question: asking twice about one long document shares its beginning."""

BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Affinity:
    """What draws a request to the group that is `key`'s home."""

    key: bytes
    prompt_tokens: float = math.inf
    """Estimated work that is saved there; infinite for a session, which is to stay in any case."""

    @property
    def draw(self) -> float:
        """The key as a number in [0, 1)."""
        return (int.from_bytes(self.key) >> 11) / 2**53


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"")


_decode_messages = msgspec.json.Decoder(list[_Message]).decode


def of_session(session: str) -> Affinity:
    return Affinity(_digest(session.encode(errors="replace")))


def of_prompt(fields: Mapping[str, msgspec.Raw]) -> Affinity | None:
    """From a request's raw fields: all turns of a conversation open with the same messages."""
    if (messages := fields.get("messages")) is not None:
        opening, size = _opening(messages), len(messages)
    elif (prompt := fields.get("prompt")) is not None:
        opening, size = bytes(prompt)[:OPENING_BYTES], len(prompt)
    else:
        return None
    return Affinity(_digest(opening), size / BYTES_PER_TOKEN) if opening else None


def home(groups: Sequence[Group], key: bytes) -> Group:
    """The first group in `key`'s order that is not loaded beyond its share; `groups` has some."""
    bound = math.ceil(MAX_SHARE * (1 + sum(group.occupancy for group in groups)) / len(groups))
    ranked = sorted(groups, key=lambda group: _digest(key + group.id.encode()))
    return next(group for group in ranked if group.occupancy < bound)


def _opening(messages: msgspec.Raw) -> bytes:
    """System messages whole and the beginning of the first one that is not."""
    try:
        decoded = _decode_messages(messages)
    except (msgspec.MsgspecError, RecursionError):
        return b""  # the engine will say what is wrong
    opening = b""
    for message in decoded:
        if message.role not in ("system", "developer"):
            return opening + bytes(message.content)[:OPENING_BYTES]
        opening += bytes(message.content)
    return opening


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()
