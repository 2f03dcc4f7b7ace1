"""The campaign: the end-to-end faults again and again, and what became of every request.

    python -m e2e.campaign [--rounds 20] [--kills 5] [--only EXPRESSION]

Each round is one run of the fault tests on the cluster that is up. Every test that sends traffic
leaves a line of its counts; the page is written from all of them, so nothing on it is typed by
hand. A round that fails is told on the page, and fails the campaign.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from e2e.cluster.places import PROJECT
from e2e.report import Report

RESULTS = "OPENINFERENCE_RESULTS"
FAULTS = ("rollouts", "upgrade", "scale", "scaling_faults", "operator_faults", "nodes", "router")


@dataclass(frozen=True, slots=True)
class Row:
    """What one test counted, over all rounds."""

    test: str
    runs: int
    complete: int
    refused: int
    lost: int


def note(test: str, report: Report) -> None:
    """Leave the counts of a test, if a campaign asked for them."""
    path = os.environ.get(RESULTS)
    if path and report.results:
        counts = (report.complete, report.refused, report.lost)
        with Path(path).open("a") as file:
            file.write(json.dumps([test, *counts]) + "\n")


def sums(lines: Iterable[str]) -> list[Row]:
    """Add up the lines of each test, in the order of their first run."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for line in lines:
        test, complete, refused, lost = json.loads(line)
        found.setdefault(test, []).append((complete, refused, lost))
    rows = []
    for test, runs in found.items():
        complete, refused, lost = map(sum, zip(*runs, strict=True))
        rows.append(Row(test, len(runs), complete, refused, lost))
    return rows


def page(rows: Sequence[Row], command: str, failures: Sequence[str]) -> str:
    """docs/reliability.md."""
    told = [
        "# Reliability",
        "",
        "Written by `make campaign`; do not edit. Each line is the end-to-end test of that name: a",
        "fault or a change while twenty streams are open and short requests arrive. *Lost* is a",
        "request that was admitted and not finished correctly: cut, hung, or with another text",
        "than an undisturbed run gives. Below capacity, refused must be 0 as well.",
        "",
        f"- command: `{command}`",
        f"- when: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit `{_commit()}`",
        f"- machine: {os.cpu_count()} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}",
        f"- rounds that failed: {', '.join(failures) or 'none'}",
        "",
        "| what happens | runs | complete | refused | lost |",
        "|---|--:|--:|--:|--:|",
    ]
    told += [f"| {r.test} | {r.runs} | {r.complete} | {r.refused} | {r.lost} |" for r in rows]
    total = (sum(getattr(row, name) for row in rows) for name in ("complete", "refused", "lost"))
    return "\n".join([*told, f"| **all** | | {' | '.join(map(str, total))} |", ""])


def title(test: str) -> str:
    """A test's name as the sentence that it is."""
    name, bracket, variant = test.removeprefix("test_").partition("[")
    return name.replace("_", " ") + (f" ({variant.removesuffix(']')})" if bracket else "")


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each test runs.")] = 20,
    kills: Annotated[int, typer.Option(min=1, help="Leaders killed in each round.")] = 5,
    only: Annotated[str, typer.Option(help="pytest's -k: some of the tests.")] = "",
    out: Annotated[Path, typer.Option(help="The page to write.")] = PROJECT / "docs/reliability.md",
) -> None:
    """Run the fault tests in rounds and write what became of every request."""
    command = f"python -m e2e.campaign --rounds {rounds} --kills {kills}"
    command += f" --only '{only}'" if only else ""
    tests = [f"e2e/test_{name}.py" for name in FAULTS]
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        results.touch()
        variables = {RESULTS: str(results), "OPENINFERENCE_KILLS": str(kills)}
        for number in range(1, rounds + 1):
            run = subprocess.run(
                (sys.executable, "-m", "pytest", *tests, *(("-k", only) if only else ())),
                cwd=PROJECT,
                env=os.environ | variables,
                check=False,
            )
            if run.returncode:
                failures.append(str(number))
            rows = sums(results.read_text().splitlines())
            out.write_text(page(rows, command, failures))
    raise typer.Exit(1 if failures else 0)


def _commit() -> str:
    words = ("git", "describe", "--always", "--dirty")
    return subprocess.run(words, cwd=PROJECT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    typer.run(main)
