"""`openinference dashboard`: the namespace's dashboard in a browser, through a port-forward."""

from __future__ import annotations

import contextlib
import threading
import webbrowser
from typing import Annotated

import typer

from openinferencev2.endpoint import ROUTER
from openinferencev2.kubectl import Context, Namespace, connect
from openinferencev2.output import out


def dashboard(
    port: Annotated[int, typer.Option(help="On this machine. Default: a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show the dashboard of a namespace until Ctrl-C."""
    with connect(namespace, context).forwarded(ROUTER, port) as url:
        out.print(f"{url}/dashboard/  [dim](Ctrl-C ends it)[/]")
        if browser:
            webbrowser.open(f"{url}/dashboard/")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
