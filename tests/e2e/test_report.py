"""Sums and percentiles over the results of a spell of traffic."""

import math

import pytest

from e2e.asks import Ask
from e2e.exchange import Transcript
from e2e.report import Report, Result, percentile
from e2e.verdict import Outcome, Verdict


def result(outcome, cause="", duration=1.0, first_token=0.25):
    seen = Transcript(Ask("Count.", max_tokens=3), sent_at=100.0)
    seen.first_token_at, seen.ended_at = 100.0 + first_token, 100.0 + duration
    return Result(seen, Verdict(outcome, cause, "why"))


@pytest.mark.parametrize(
    ("fraction", "value"), [(0.0, 1), (0.5, 2), (0.75, 3), (0.95, 4), (1.0, 4)]
)
def test_a_percentile_is_a_value_that_occurred(fraction, value):
    assert percentile([4, 2, 1, 3], fraction) == value


def test_nothing_has_no_percentile():
    assert math.isnan(percentile([], 0.5))


def test_times_are_those_of_complete_requests():
    report = Report([result(Outcome.COMPLETE), result(Outcome.LOST, "hung", duration=60.0)])
    assert report.duration_seconds(0.95) == pytest.approx(1.0)
    assert report.time_to_first_token_seconds(0.95) == pytest.approx(0.25)


def test_the_explanation_counts_and_names_the_first_failures():
    report = Report([result(Outcome.COMPLETE), *[result(Outcome.LOST, "cut")] * 7])
    lines = report.explain(limit=2).splitlines()
    assert lines[0] == "complete 1, refused 0, lost 7"
    assert lines[1] == "  lost (cut) stream after 1.0 s: why"
    assert lines[-1] == "  … and 5 more"
