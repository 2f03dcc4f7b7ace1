"""The command line `openinference`. Each command imports what it runs, so that help is instant."""

from __future__ import annotations

import typer

from openinferencev2 import model
from openinferencev2.plan import plan

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(model.app, name="model")
app.command()(plan)


@app.callback()
def openinference() -> None:
    """Serve language models on Kubernetes, or right here."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def serve(context: typer.Context) -> None:
    """Serve one model over the OpenAI API; `serve --help` lists the engine's flags."""
    from openinference_engine.__main__ import main as run_engine

    raise typer.Exit(run_engine(["serve", *context.args]))


def main() -> None:
    app()
