"""Entry of the core process: threads are set before torch is imported, then the loop runs."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from openinference_engine.config import EngineConfig
from openinference_engine.errors import EXIT_CANNOT_START, StartError
from openinference_engine.gpu_context import begin_context
from openinference_engine.limits import processor_limit
from openinference_engine.log import configure_logging


def main() -> int:
    started = time.monotonic()
    configure_logging()
    faulthandler.register(signal.SIGUSR1)  # the API process asks for the stacks of a hung core
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    os.environ.setdefault("OMP_NUM_THREADS", str(processor_limit()))
    # Threads sleep at a barrier instead of spinning: on a shared machine, spinning for a thread
    # that was descheduled made steps more than twice as slow (measured with two busy neighbours).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if config.device == "cuda":
        begin_context()
    from openinference_engine.core import process

    process.exit_with_stdin()
    try:
        process.run(Path(sys.argv[1]), config, started)
        return 0
    except StartError as error:
        print(f"openinference: {error}", file=sys.stderr)
        return EXIT_CANNOT_START


sys.exit(main())
