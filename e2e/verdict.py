"""Was a request complete, refused or lost? Pure judgement of what its client saw.

*Refused*: the service said no before it began (429, 503) or could not be connected to.
*Complete*: the reference's text and token count, a finish_reason, and for a stream the usage
chunk and [DONE]. *Lost*: everything else, because it was admitted and not finished correctly:
cut, hung past its deadline, wrong text or usage, an error instead of an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from e2e.asks import Ask
from e2e.exchange import Transcript, Trouble


class Outcome(StrEnum):
    COMPLETE = "complete"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`cause` is one of a few words and can be counted; `detail` is for a person."""

    outcome: Outcome
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """The right answer to an ask, as an undisturbed engine gave it."""

    text: str
    completion_tokens: int
    finish_reason: str


References = Mapping[Ask, Reference]

_REFUSALS = (429, 503)


def reference_key(ask: Ask) -> Ask:
    """Streamed or not, the same ask has the same answer."""
    return replace(ask, is_streamed=False)


def judge(seen: Transcript, reference: Reference) -> Verdict:
    if seen.status in _REFUSALS:
        return Verdict(Outcome.REFUSED, str(seen.status), seen.detail)
    if seen.trouble is Trouble.UNREACHABLE:
        return Verdict(Outcome.REFUSED, seen.trouble, seen.detail)
    if seen.trouble is not None:
        return _lost(seen.trouble, seen.detail)
    if missing := _missing_ends(seen):
        return _lost("cut", f"no {' and no '.join(missing)}")
    if seen.text != reference.text:
        return _lost("wrong text", _first_difference(seen.text, reference.text))
    if seen.completion_tokens != reference.completion_tokens:
        said, right = seen.completion_tokens, reference.completion_tokens
        return _lost("wrong usage", f"completion_tokens {said}, right is {right}")
    if seen.finish_reason != reference.finish_reason:
        said_reason, right_reason = seen.finish_reason, reference.finish_reason
        return _lost("wrong end", f"finish_reason {said_reason}, right is {right_reason}")
    return Verdict(Outcome.COMPLETE)


def _lost(cause: str, detail: str) -> Verdict:
    return Verdict(Outcome.LOST, cause, detail)


def _missing_ends(seen: Transcript) -> list[str]:
    ends = {
        "finish_reason": seen.finish_reason is not None,
        "usage": seen.completion_tokens is not None,
        "[DONE]": seen.is_done,
    }
    return [name for name, is_there in ends.items() if not is_there]


def _first_difference(text: str, right: str) -> str:
    pairs = zip(text, right, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(right)))
    return f"at character {at}: {text[at : at + 24]!r}, right is {right[at : at + 24]!r}"
