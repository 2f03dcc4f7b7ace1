"""`python -m e2e.demo` (or `make demo`): the whole project on this machine, in a few minutes."""

import asyncio
import sys

from e2e.cluster import places
from e2e.demo.screen import Screen
from e2e.demo.story import NAMESPACE, StoryError, tell
from e2e.install import SYSTEM_NAMESPACE
from e2e.kube import Kube, KubeError
from e2e.traffic import TrafficError

DIAGNOSTICS = places.cache() / "demo-diagnostics.txt"


def main() -> int:
    """Return the exit code: 0 told to the end, 1 broken off, 2 not on this machine."""
    screen = Screen()
    try:
        asyncio.run(tell(screen))
    except (StoryError, KubeError, TrafficError) as error:
        screen.fail(str(error))
        DIAGNOSTICS.write_text(asyncio.run(_diagnostics()))
        screen.say(f"The state of the cluster is in {DIAGNOSTICS}; `make demo` begins anew.")
        return 1
    except KeyboardInterrupt:
        screen.fail("Broken off; the cluster goes on. Remove it with `make demo-down`.")
        return 130
    screen.say(f"[green]✓[/] The whole story took {screen.elapsed_seconds:.0f} s.")
    return 0


async def _diagnostics() -> str:
    namespaces = (NAMESPACE, SYSTEM_NAMESPACE)
    return "\n\n".join([await Kube(each).diagnostics() for each in namespaces])


if __name__ == "__main__":
    sys.exit(main())
