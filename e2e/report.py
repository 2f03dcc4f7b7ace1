"""What a spell of traffic amounted to: counts, causes, who answered, how fast. Pure."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from e2e.exchange import Transcript
from e2e.verdict import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Result:
    """One finished request and the judgement on it."""

    seen: Transcript
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """Sums over results; every figure is derived, so a part of the results reports as well."""

    results: Sequence[Result]

    @property
    def complete(self) -> int:
        return self._count(Outcome.COMPLETE)

    @property
    def refused(self) -> int:
        return self._count(Outcome.REFUSED)

    @property
    def lost(self) -> int:
        return self._count(Outcome.LOST)

    @property
    def causes(self) -> Counter[str]:
        """How often each cause of a refusal or a loss occurred."""
        return Counter(r.verdict.cause for r in self.results if r.verdict.cause)

    @property
    def groups(self) -> Counter[str]:
        return Counter(r.seen.group for r in self.results if r.seen.group)

    @property
    def revisions(self) -> Counter[str]:
        return Counter(r.seen.revision for r in self.results if r.seen.revision)

    def time_to_first_token_seconds(self, fraction: float) -> float:
        times = (
            r.seen.time_to_first_token_seconds for r in self._completed() if r.seen.ask.is_streamed
        )
        return percentile((t for t in times if t is not None), fraction)

    def duration_seconds(self, fraction: float) -> float:
        return percentile((r.seen.duration_seconds for r in self._completed()), fraction)

    def counts(self) -> str:
        """The sentence that every fault test states."""
        return f"complete {self.complete}, refused {self.refused}, lost {self.lost}"

    def explain(self, limit: int = 5) -> str:
        """The counts, and the first few requests that did not complete."""
        failed = [r for r in self.results if r.verdict.outcome is not Outcome.COMPLETE]
        lines = [_failure_line(r) for r in failed[:limit]]
        more = [f"  … and {len(failed) - limit} more"] if len(failed) > limit else []
        return "\n".join([self.counts(), *lines, *more])

    def table(self) -> Table:
        table = Table(title="Traffic", show_header=False, title_justify="left")
        table.add_row("complete", f"[green]{self.complete}")
        table.add_row("refused", f"[{'yellow' if self.refused else 'green'}]{self.refused}")
        table.add_row("lost", f"[{'bold red' if self.lost else 'green'}]{self.lost}")
        for cause, count in self.causes.most_common():
            table.add_row(f"  {cause}", str(count))
        for name, count in sorted(self.groups.items()):
            table.add_row(f"  answered by {name}", str(count))
        table.add_row("first token, p50 / p95", _pair(self.time_to_first_token_seconds))
        table.add_row("whole answer, p50 / p95", _pair(self.duration_seconds))
        return table

    def _count(self, outcome: Outcome) -> int:
        return sum(r.verdict.outcome is outcome for r in self.results)

    def _completed(self) -> Iterable[Result]:
        return (r for r in self.results if r.verdict.outcome is Outcome.COMPLETE)


def percentile(values: Iterable[float], fraction: float) -> float:
    """The smallest value that `fraction` of all values do not exceed; nan without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)] if ordered else math.nan


def _pair(figure: Callable[[float], float]) -> str:
    return f"{figure(0.5):.2f} s / {figure(0.95):.2f} s"


def _failure_line(result: Result) -> str:
    seen, verdict = result.seen, result.verdict
    kind = "stream" if seen.ask.is_streamed else "request"
    who = f" on {seen.group}" if seen.group else ""
    return (
        f"  {verdict.outcome} ({verdict.cause}) {kind}{who} "
        f"after {seen.duration_seconds:.1f} s: {verdict.detail}"
    )
