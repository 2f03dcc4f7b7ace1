"""`python3 -m openinference_operator`: the operator, or `plan -f` on a file without a cluster."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from openinference_operator.settings import Settings


def main() -> None:
    """Parse the command line and run."""
    # Process 1 of a container ignores SIGTERM until it has a handler; kopf's comes later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parser = argparse.ArgumentParser(prog="openinference_operator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="watch the cluster and reconcile (the default)")
    plan = commands.add_parser("plan", help="print the objects of an InferenceService")
    plan.add_argument("-f", "--file", type=Path, required=True, help="YAML of the InferenceService")
    arguments = parser.parse_args()
    if arguments.command == "plan":
        from openinference_operator.preview import preview

        sys.exit(preview(arguments.file, Settings(), sys.stdout))
    from openinference_operator.process import run

    asyncio.run(run(Settings()))


if __name__ == "__main__":
    main()
