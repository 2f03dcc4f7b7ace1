"""What routers measured of a canary and of the revision it replaces, by instant queries.

All figures are since the step began. A revision without enough requests has no figure yet: that is
missing, and holds the canary; so does a Prometheus that does not answer. Only what is measured can
fail a revision.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from openinference_operator.canary import Verdict
from openinference_operator.rollout_spec import Limit, Measure
from openinference_operator.scaling import Lost
from openinference_operator.signals.prometheus import Prometheus, Sample, selector

ATTEMPTS = "openinference_router_attempts_total"
FIRST_TOKEN = "openinference_router_first_token_seconds"  # noqa: S105  (a name)
QUANTILE = 0.9
MIN_REQUESTS = 10
"""Fewer say little: one failure of three is no rate, and the first finds a cold cache."""

MIN_RANGE_SECONDS = 30  # two scrapes at the usual 15 s: `increase` of one sample is nothing


@dataclass(frozen=True, slots=True)
class Figures:
    """What one revision did since the step began; None where too few requests tell."""

    attempts: float = 0.0
    failed: float = 0.0
    first_tokens: float = 0.0
    ttft_seconds: float | None = None

    def value(self, measure: Measure) -> float | None:
        """The figure that a limit is about."""
        if measure == "ErrorRate":
            return self.failed / self.attempts if self.attempts >= MIN_REQUESTS else None
        return self.ttft_seconds if self.first_tokens >= MIN_REQUESTS else None

    def count(self, measure: Measure) -> float:
        """How many requests the figure is made from."""
        return self.attempts if measure == "ErrorRate" else self.first_tokens


async def analyse(
    prometheus: Prometheus,
    service: tuple[str, str],
    revisions: tuple[str, str],
    limits: Sequence[Limit],
    seconds: float,
) -> Verdict:
    """Judge `revisions` (new, old) of a `service` (namespace, name) by the last so many seconds."""
    if not limits:
        return Verdict(seen="no analysis is asked for")
    new, old = revisions
    figures = await _measure(prometheus, service, max(MIN_RANGE_SECONDS, round(seconds)))
    if isinstance(figures, Lost):
        return Verdict(missing=figures.reason)
    return judge(limits, figures.get(new, Figures()), figures.get(old, Figures()), new)


def judge(limits: Iterable[Limit], new: Figures, old: Figures, revision: str) -> Verdict:
    """Hold the figures of a new revision against its limits."""
    seen, failed, missing = [], [], []
    for limit in limits:
        value, count = new.value(limit.measure), new.count(limit.measure)
        if value is None:
            missing.append(f"{limit.measure} from {count:.0f} of {MIN_REQUESTS} requests")
            continue
        seen.append(f"{limit.measure} {value:.3g} of {count:.0f} requests")
        bound, words = _bound(limit, old.value(limit.measure))
        if bound is None:
            missing.append(f"{limit.measure} of the old revision to compare with")
        elif value > bound:
            failed.append(f"{limit.measure} of revision {revision} is {value:.3g}, above {words}")
    return Verdict("; ".join(seen), "; ".join(failed), "; ".join(missing))


def _bound(limit: Limit, old: float | None) -> tuple[float | None, str]:
    """The largest value that is right, and where it comes from; None while it is not known."""
    bounds: dict[str, Decimal] = {}
    if limit.maximum is not None:
        bounds[f"max = {limit.maximum}"] = limit.maximum
    if limit.maximum_ratio is not None and old is None:
        return None, ""
    if limit.maximum_ratio is not None and old is not None:
        bounds[f"maxRatio = {limit.maximum_ratio} of {old:.3g}"] = limit.maximum_ratio * Decimal(
            old
        )
    words, bound = min(bounds.items(), key=lambda entry: entry[1])
    return float(bound), words


async def _measure(
    prometheus: Prometheus, service: tuple[str, str], seconds: int
) -> Mapping[str, Figures] | Lost:
    answers = [await prometheus.query(each) for each in _expressions(selector(*service), seconds)]
    lost = next((answer for answer in answers if isinstance(answer, Lost)), None)
    if lost is not None:
        return lost
    return _figures(*(answer for answer in answers if not isinstance(answer, Lost)))


def _expressions(labels: str, seconds: int) -> tuple[str, str, str]:
    """Attempts, first tokens and their time, of each revision within the last so many seconds."""
    return (
        f"sum by (revision, outcome) (increase({ATTEMPTS}{{{labels}}}[{seconds}s]))",
        f"sum by (revision) (increase({FIRST_TOKEN}_count{{{labels}}}[{seconds}s]))",
        f"histogram_quantile({QUANTILE}, sum by (revision, le)"
        f" (increase({FIRST_TOKEN}_bucket{{{labels}}}[{seconds}s]))) >= 0",
    )


def _figures(
    counts: Iterable[Sample], tokens: Iterable[Sample], times: Iterable[Sample]
) -> dict[str, Figures]:
    attempts: dict[str, dict[str, float]] = {}
    for sample in counts:
        outcomes = attempts.setdefault(sample.labels.get("revision", ""), {})
        outcomes[sample.labels.get("outcome", "")] = sample.value
    num_tokens = {sample.labels.get("revision", ""): sample.value for sample in tokens}
    seconds = {sample.labels.get("revision", ""): sample.value for sample in times}
    return {
        revision: Figures(
            attempts=sum(outcomes.values()),
            failed=outcomes.get("failed", 0.0),
            first_tokens=num_tokens.get(revision, 0.0),
            ttft_seconds=seconds.get(revision),
        )
        for revision, outcomes in attempts.items()
    }
