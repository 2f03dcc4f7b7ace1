"""What became of every request over all runs of the campaign, and the page that says so.

Each line of `docs/reliability.jsonl` is one run of one test; docs/reliability.md is written from
all of them and from nothing else.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from e2e.cluster.places import PROJECT
from e2e.report import Report

RESULTS = "OPENINFERENCE_RESULTS"
SEED = int(os.environ.get("OPENINFERENCE_SEED", "0"))  # of the moments at which faults come

INTRODUCTION = """\
Written by `make campaign`; do not edit. Each line is the end-to-end test of that name: a fault or
a change while twenty streams are open and short requests arrive. *Lost* is a request that was
admitted and not finished correctly: cut, hung, or with another text than an undisturbed run gives.
Below capacity, refused must be 0 as well.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one test counted."""

    test: str
    faults: int  # injected in this run
    complete: int
    refused: int
    lost: int
    failed: bool = False
    may_lose: bool = False  # a control, or what nothing can save
    seed: int = 0
    at: str = ""  # UTC
    commit: str = ""
    machine: str = ""
    unready_seconds: float = 0.0  # from the fault until its group was, where that was measured


@dataclass(frozen=True, slots=True)
class Row:
    """What one test counted, over all its runs."""

    test: str
    runs: int
    failed: int
    faults: int
    complete: int
    refused: int
    lost: int
    may_lose: bool
    unready_seconds: float = 0.0  # the longest
    last_unready_seconds: float = 0.0  # of the code as it was last


@dataclass
class Counted:
    """What a test leaves for the page; a test that injects several faults says how many."""

    reports: list[Report] = field(default_factory=list)
    faults: int = 1
    may_lose: bool = False
    unready_seconds: float = 0.0  # from the fault until its group was
    control: Report | None = None  # requests of the same fault that may not resume

    def note(self, test: str, *, failed: bool) -> None:
        """Write the counts of a test down, if a campaign asked for them."""
        whole = Report(tuple(result for report in self.reports for result in report.results))
        path = os.environ.get(RESULTS)
        if path and (whole.results or failed):
            now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
            counts = (self.faults, whole.complete, whole.refused, whole.lost)
            run = Run(
                *(test, *counts, failed, self.may_lose, SEED, now, _commit(), _machine()),
                round(self.unready_seconds, 1),
            )
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(run)) + "\n")
        if self.control is not None:
            control = Counted([self.control], self.faults, may_lose=True)
            control.note(f"{test} (control)", failed=failed)


def write_page(results: Path) -> None:
    results.with_suffix(".md").write_text(page(parse(results.read_text().splitlines())))


def parse(lines: Iterable[str]) -> list[Run]:
    return [Run(**json.loads(line)) for line in lines]


def sums(runs: Iterable[Run]) -> list[Row]:
    """Add up the runs of each test, in the order of their first run."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.test, []).append(run)
    return [
        Row(
            test=test,
            runs=len(each),
            failed=sum(run.failed for run in each),
            faults=sum(run.faults for run in each),
            complete=sum(run.complete for run in each),
            refused=sum(run.refused for run in each),
            lost=sum(run.lost for run in each),
            may_lose=each[0].may_lose,
            unready_seconds=max(run.unready_seconds for run in each),
            last_unready_seconds=next(
                (run.unready_seconds for run in reversed(each) if run.unready_seconds), 0.0
            ),
        )
        for test, each in found.items()
    ]


def page(runs: Sequence[Run]) -> str:
    """docs/reliability.md."""
    rows = sums(runs)
    proofs = [row for row in rows if not row.may_lose]
    return "\n".join(
        [
            "# Reliability",
            "",
            INTRODUCTION,
            "- command: `python -m e2e.campaign`, whose runs add up in `docs/reliability.jsonl`",
            f"- when: {_span(run.at for run in runs)} UTC",
            f"- commits: {', '.join(f'`{each}`' for each in _each(run.commit for run in runs))}",
            f"- machine: {'; '.join(_each(run.machine for run in runs))}",
            "",
            *_table(proofs),
            _line(_total(proofs)),
            "",
            "## Where losses are expected",
            "",
            "Controls with resume switched off show that a loss would be seen. A killed router pod",
            "takes the connections with it that were open on it, and its address refuses new ones",
            "for the second or two until Kubernetes has taken it out of the Service.",
            "",
            *_table([row for row in rows if row.may_lose]),
            "",
            *_unready([row for row in proofs if row.unready_seconds]),
        ]
    )


def title(test: str) -> str:
    """A test's name as the sentence that it is."""
    name, bracket, variant = test.removeprefix("test_").partition("[")
    return name.replace("_", " ") + (f" ({variant.removesuffix(']')})" if bracket else "")


def _table(rows: Sequence[Row]) -> list[str]:
    return [
        "| what happens | runs | failed | faults | complete | refused | lost |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *map(_line, rows),
    ]


def _unready(rows: Sequence[Row]) -> list[str]:
    """How soon groups were unready whose rank went; nothing where no run measured it."""
    if not rows:
        return []
    return [
        "## How soon a group whose rank goes is unready",
        "",
        "From the signal until the API server says that its first pod is not Ready.",
        "The goal is 5 s.",
        "",
        "| what happens | longest, s | last run, s |",
        "|---|--:|--:|",
        *(
            f"| {row.test} | {row.unready_seconds:.1f} | {row.last_unready_seconds:.1f} |"
            for row in rows
        ),
        "",
    ]


def _line(row: Row) -> str:
    counts = (row.runs, row.failed, row.faults, row.complete, row.refused, row.lost)
    return f"| {row.test} | {' | '.join(map(str, counts))} |"


def _total(rows: Sequence[Row]) -> Row:
    names = ("runs", "failed", "faults", "complete", "refused", "lost")
    counts = {name: sum(getattr(row, name) for row in rows) for name in names}
    return Row(test="**all**", may_lose=False, **counts)


def _each(words: Iterable[str]) -> list[str]:
    """Every word once, in the order of its first use."""
    return list(dict.fromkeys(word for word in words if word))


def _span(times: Iterable[str]) -> str:
    known = sorted(filter(None, times))
    return f"{known[0]} to {known[-1]}" if known else "never"


def _machine() -> str:
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def _commit() -> str:
    """The commit that runs; results of earlier rounds do not make it another one."""
    words = ("git", "describe", "--always", "--exclude=*")
    run = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    name = run.stdout.strip()
    compare = ("git", "diff", "--quiet", "HEAD", "--", ".", ":!docs/reliability*")
    is_changed = subprocess.run(compare, cwd=PROJECT, check=False).returncode == 1
    return f"{name}-dirty" if is_changed else name
