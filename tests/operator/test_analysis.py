"""What a canary is judged by: errors and times to the first token, beside the old revision."""

from decimal import Decimal

import pytest
from openinference_operator.rollout_spec import Limit
from openinference_operator.signals.analysis import Figures, judge


def figures(failed=0, attempts=100, ttft=1.0):
    return Figures(attempts, failed, attempts, ttft)


ERRORS = Limit("ErrorRate", Decimal("0.01"), None)
SLOWER = Limit("TTFT", None, Decimal("1.5"))
BOTH = Limit("TTFT", Decimal(2), Decimal("1.5"))
JUDGEMENTS = {
    # name: (limits, new, old) -> (what fails, what is missing)
    "good": ([ERRORS, SLOWER], figures(), figures(), "", ""),
    "at its limit": ([ERRORS], figures(failed=1), figures(), "", ""),
    "fails": ([ERRORS], figures(failed=2), figures(), "0.02, above max = 0.01", ""),
    "too few requests": ([ERRORS], figures(9, 9), figures(), "", "9 of 10 requests"),
    "no requests": ([SLOWER], Figures(), figures(), "", "0 of 10 requests"),
    "slower than the old": ([SLOWER], figures(ttft=1.6), figures(), "maxRatio = 1.5 of 1", ""),
    "nothing to compare": ([SLOWER], figures(), Figures(), "", "old revision to compare"),
    "the tighter of two": ([BOTH], figures(ttft=2.5), figures(ttft=4), "above max = 2", ""),
}


@pytest.mark.parametrize(
    ("limits", "new", "old", "failed", "missing"), JUDGEMENTS.values(), ids=JUDGEMENTS.keys()
)
def test_analysis(limits, new, old, failed, missing):
    verdict = judge(limits, new, old, "1a2b3c4d")
    assert (bool(verdict.failed), bool(verdict.missing)) == (bool(failed), bool(missing))
    assert failed in verdict.failed
    assert missing in verdict.missing
