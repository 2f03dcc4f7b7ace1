"""`openinference completion`: the script that a shell sources to complete commands and flags."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

PROGRAM = "openinference"
VARIABLE = "_OPENINFERENCE_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Yours.")]) -> None:
    """Print a completion script; for bash: source <(openinference completion bash)."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value)
    typer.echo(script)
