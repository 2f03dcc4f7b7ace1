"""`python3 -m openinference_router`: read the settings, serve until told to stop."""

import gc
import signal
import sys


def main() -> int:
    # As PID 1 of a container we would ignore SIGTERM until somebody handles it, and be waited for
    # the whole grace; the server's own handler comes after a second of imports.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    import uvloop
    from kubernetes.aio.config import ConfigException
    from pydantic import ValidationError

    from openinference_router import logs
    from openinference_router.server import serve
    from openinference_router.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        for flaw in error.errors():
            name = "_".join(str(part) for part in flaw["loc"]).upper()
            print(f"OPENINFERENCE_ROUTER_{name}: {flaw['msg']}", file=sys.stderr)
        return 2
    logs.set_up()
    code = 0
    try:
        spare_the_collector()
        uvloop.run(serve(settings))
    except* (OSError, ConfigException) as errors:
        print(f"the router cannot start: {errors.exceptions[0]}", file=sys.stderr)
        code = 1
    return code


def spare_the_collector() -> None:
    """Look for cycles rarely, and never in what was imported.

    With thousands of streams open a full pass visits all that they hold, and every stream waits.
    Requests leave few cycles behind; those are found after 50,000 new objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


if __name__ == "__main__":
    sys.exit(main())
