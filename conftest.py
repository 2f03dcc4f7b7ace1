"""What all tests share, whichever folder they are in."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def children_that_hear_ctrl_c() -> None:
    """Ctrl-C works in what tests start, also where a shell runs the tests in the background.

    Such a shell makes its jobs ignore the signal, and ignoring is inherited; a handler is not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
