"""The campaign: the end-to-end faults again and again, and what became of every request.

    python -m e2e.campaign [--rounds 20] [--kills 5] [--requests 2000] [--only EXPRESSION] [--fresh]

Each round is one run of the fault tests on the cluster that is up. Every test that sends traffic
leaves a line of its counts in `docs/reliability.jsonl`, whether it passed or not; the page beside
it is written from all lines, so runs on several days add up and nothing on it is typed by hand. A
round that fails is told on the page, and fails the campaign.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from e2e.cluster.places import PROJECT
from e2e.reliability import RESULTS, write_page

FAULTS = (
    *("rollouts", "upgrade", "scale", "autoscaling", "scaling_faults", "operator_faults"),
    *("nodes", "groups", "tensor_groups", "router"),
)
WRITTEN = PROJECT / "docs" / "reliability.jsonl"


def main(
    rounds: Annotated[int, typer.Option(min=0, help="How often each test runs.")] = 20,
    kills: Annotated[int, typer.Option(min=1, help="Leaders killed in each round.")] = 5,
    requests: Annotated[int, typer.Option(min=60, help="Around the faults of one test.")] = 2000,
    only: Annotated[str, typer.Option(help="pytest's -k: some of the tests.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier results.")] = False,
    results: Annotated[Path, typer.Option(help="Where runs add up, the page beside it.")] = WRITTEN,
) -> None:
    """Run the fault tests in rounds and write what became of every request."""
    tests = [f"e2e/test_{name}.py" for name in FAULTS]
    results.open("w" if fresh else "a").close()
    command = (sys.executable, "-m", "pytest", *tests, *(("-k", only) if only else ()))
    failures = 0
    for _ in range(rounds):
        variables = {
            RESULTS: str(results.resolve()),
            "OPENINFERENCE_KILLS": str(kills),
            "OPENINFERENCE_REQUESTS": str(requests),
            "OPENINFERENCE_SEED": str(len(results.read_text().splitlines())),
        }
        finished = subprocess.run(command, cwd=PROJECT, env=os.environ | variables, check=False)
        failures += finished.returncode != 0
        write_page(results)
    write_page(results)
    raise typer.Exit(1 if failures else 0)


if __name__ == "__main__":
    typer.run(main)
