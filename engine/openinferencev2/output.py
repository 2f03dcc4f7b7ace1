"""How commands speak: tables for people on stdout, JSON for programs, remarks on stderr."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="text for people, json for scripts")]

out = Console(highlight=False)  # no colours on mere digits
remarks = Console(stderr=True, highlight=False)

COLOURS = {"good": "green", "busy": "blue", "bad": "red", "asleep": "dim"}
SIGNS = {"good": "●", "busy": "◐", "bad": "▲", "asleep": "○"}


def print_json(document: Any) -> None:
    """One JSON document on stdout, plain, so that it can be piped."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def toned(tone: str, text: str) -> str:
    """A sign, a word and a colour: any one of them says the same."""
    return f"[{COLOURS[tone]}]{SIGNS[tone]} {text}[/]"
