"""The command line `openinference`: each command is a module, named after what it does.

A command imports what is heavy when it runs, so that help is instant. Whatever goes wrong ends in
one sentence with a remedy and an exit code (`errors`); `--debug` shows the traceback instead.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer
import typer.core
from rich.markup import escape
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.exceptions import TyperException

from openinferencev2 import config, model
from openinferencev2.batch import run
from openinferencev2.bench import bench
from openinferencev2.chat import chat
from openinferencev2.completion import PROGRAM, completion
from openinferencev2.dashboard import dashboard
from openinferencev2.deploy import deploy
from openinferencev2.doctor import doctor
from openinferencev2.errors import CommandError, Exit
from openinferencev2.logs import logs
from openinferencev2.operate import rollback, scale
from openinferencev2.output import remarks
from openinferencev2.plan import plan
from openinferencev2.quantize import quantize
from openinferencev2.status import status

EPILOG = (
    "Exit codes: 0 done · 1 it failed · 2 wrong usage or input · 3 no cluster, or it refuses · "
    "4 not in time · 130 interrupted."
)

# serve and model need the engine's, plan the operator's too; asking a cluster needs none of them.
EXTRAS = "pip install 'openinferencev2[engine,operator,sources]'"


class Commands(typer.core.TyperGroup):
    """The root: turns what a command raises into words and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, TyperException, BrokenPipeError):
            raise  # typer's own words about wrong usage, and none where `head` has seen enough
        except (Exception, KeyboardInterrupt) as error:
            if ctx.params["debug"]:
                raise
            raise typer.Exit(_tell(error)) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"openinference {version('openinferencev2')}")
        raise typer.Exit


@app.callback()
def openinference(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Say the version and exit."
        ),
    ] = False,
) -> None:
    """Serve language models on Kubernetes, or right here."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def serve(context: typer.Context) -> None:
    """Serve one model over the OpenAI API; `serve --help` lists the engine's flags."""
    from openinference_engine.__main__ import main as run_engine

    raise typer.Exit(run_engine(["serve", *context.args]))


_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Ask": (chat, run, bench),
    "Operate": (plan, deploy, status, logs, scale, rollback, dashboard, doctor),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command()(quantize)
app.command()(completion)
app.add_typer(model.app, name="model")
app.add_typer(config.app, name="config")


def main() -> None:
    completion_init()
    app(prog_name=PROGRAM)


def _tell(error: BaseException) -> int:
    """Say it in one sentence; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, ModuleNotFoundError):
        error = CommandError(f"{error.name} is not installed", EXTRAS, Exit.USAGE)
    known = isinstance(error, CommandError | OSError)
    words = str(error) if known else f"{type(error).__name__}: {error}; --debug shows where"
    remarks.print(f"[bold red]error:[/] {escape(words)}", soft_wrap=True)
    return error.code if isinstance(error, CommandError) else Exit.FAILED
