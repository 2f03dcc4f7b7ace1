"""`openinference config`: what is in force, and who said so."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from openinferencev2.endpoint import Url
from openinferencev2.kubectl import Context, Namespace
from openinferencev2.output import Format, Output, out, print_json

if TYPE_CHECKING:
    from openinferencev2.settings import Told

app = typer.Typer(no_args_is_help=True, help="Settings of this command line.")

SECRET = "api_key"  # noqa: S105  the name of a setting


@app.command()
def show(
    url: Url = None,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Format.TEXT,
) -> None:
    """Print each setting with its source, as a command with these flags would see it."""
    from openinferencev2.settings import Settings, explain

    flags = {"url": url, "namespace": namespace, "context": context}
    found = {name: _masked(name, told) for name, told in explain(**flags).items()}
    if output is Format.JSON:
        return print_json({name: asdict(told) for name, told in found.items()})
    lines = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("SETTING", "VALUE", "SOURCE", "MEANS"):
        lines.add_column(column)
    for name, told in found.items():
        means = Settings.model_fields[name].description or ""
        lines.add_row(name, told.value or "[dim](empty)[/]", told.source, f"[dim]{means}[/]")
    out.print(lines)
    return None


def _masked(name: str, told: Told) -> Told:
    return replace(told, value="…") if name == SECRET and told.value else told
