"""The judgement on one request, as a pure function of what its client saw."""

import pytest

from e2e.asks import Ask
from e2e.exchange import Transcript, Trouble
from e2e.verdict import Outcome, Reference, judge

RIGHT = Reference(text="One two three", completion_tokens=3, finish_reason="stop")
WELL = {
    "status": 200,
    "text": "One two three",
    "finish_reason": "stop",
    "completion_tokens": 3,
    "is_done": True,
}


def seen(**changes):
    transcript = Transcript(Ask("Count.", max_tokens=3))
    for name, value in (WELL | changes).items():
        setattr(transcript, name, value)
    return transcript


def test_a_right_answer_with_all_its_ends_is_complete():
    assert judge(seen(), RIGHT).outcome is Outcome.COMPLETE


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"is_done": False}, "cut"),
        ({"finish_reason": None}, "cut"),
        ({"completion_tokens": None}, "cut"),
        ({"trouble": Trouble.CUT}, "cut"),
        ({"trouble": Trouble.HUNG}, "hung"),
        ({"trouble": Trouble.ERROR}, "error"),
        ({"trouble": Trouble.ERROR, "status": 500}, "error"),
        ({"trouble": Trouble.ERROR, "status": 404}, "error"),
        ({"text": "One two"}, "wrong text"),
        ({"text": "One two three four"}, "wrong text"),
        ({"completion_tokens": 4}, "wrong usage"),
        ({"finish_reason": "length"}, "wrong end"),
    ],
)
def test_whatever_else_was_admitted_is_lost(changes, cause):
    verdict = judge(seen(**changes), RIGHT)
    assert (verdict.outcome, verdict.cause) == (Outcome.LOST, cause)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"status": 429, "trouble": Trouble.ERROR}, "429"),
        ({"status": 503, "trouble": Trouble.ERROR}, "503"),
        ({"status": None, "trouble": Trouble.UNREACHABLE}, "unreachable"),
    ],
)
def test_what_was_never_admitted_is_refused(changes, cause):
    verdict = judge(seen(**changes), RIGHT)
    assert (verdict.outcome, verdict.cause) == (Outcome.REFUSED, cause)


def test_the_detail_of_a_wrong_text_shows_where_it_goes_wrong():
    verdict = judge(seen(text="One too three"), RIGHT)
    assert verdict.detail == "at character 5: 'oo three', right is 'wo three'"


def test_the_first_trouble_is_kept():
    transcript = seen()
    transcript.fail(Trouble.ERROR, "the engine went away")
    transcript.fail(Trouble.CUT, "connection closed")
    assert (transcript.trouble, transcript.detail) == (Trouble.ERROR, "the engine went away")
