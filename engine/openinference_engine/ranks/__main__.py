"""Entry of a rank's process, started by `local`: the rank's number, then maybe a file to keep from
when it has loaded; settings on stdin.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from openinference_engine.config import EngineConfig
from openinference_engine.errors import EXIT_CANNOT_START, EXIT_RANK_LOST, StartError
from openinference_engine.log import configure_logging
from openinference_engine.ranks.local import BEAT_SECONDS, beat


def main() -> int:
    configure_logging()
    faulthandler.register(signal.SIGUSR1)
    rank = int(sys.argv[1])
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from openinference_engine.ranks.link import RankLink
    from openinference_engine.ranks.messages import Leaving
    from openinference_engine.ranks.watch import end_process
    from openinference_engine.ranks.worker import serve_rank
    from openinference_engine.weights.checkpoint import open_checkpoint
    from openinference_engine.weights.uri import resolve

    is_leaving = threading.Event()

    def end(reason: str) -> None:
        """A group that ends after this pod was told to terminate has drained."""
        if is_leaving.is_set():
            os._exit(0)
        end_process(f"rank {rank}: {reason}")

    def be_ready(link: RankLink) -> None:
        def leave(*_: object) -> None:
            is_leaving.set()
            link.send(Leaving())

        signal.signal(signal.SIGTERM, leave)
        for path in sys.argv[2:]:
            beat(Path(path))
            threading.Thread(target=_beat_on, args=(Path(path),), daemon=True).start()

    threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    try:
        checkpoint = open_checkpoint(resolve(config.model_uri))
        serve_rank(checkpoint, config, rank, end, be_ready)
    except StartError as error:
        print(f"openinference: rank {rank}: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    except Exception as error:  # a lost peer shows as an error of an exchange first
        end(f"{type(error).__name__}: {error}")
    return EXIT_RANK_LOST


def _beat_on(path: Path) -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        with suppress(FileNotFoundError):  # the pod ends
            beat(path)


def _end_with_stdin() -> None:
    """Ends this process at once when the process that started it is gone."""
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
