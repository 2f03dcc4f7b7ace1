"""`openinference status`: what runs, and for one service why it is as it is, live if wanted."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from openinferencev2 import services
from openinferencev2.kubectl import Context, Json, Kubectl, Namespace, connect, service_names
from openinferencev2.output import Format, Output, out, print_json, toned

LOOK_SECONDS = 1.0


def status(
    name: Annotated[
        str | None,
        typer.Argument(help="One service in detail; default: all.", autocompletion=service_names),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Say what runs and why it is as it is, with what to do where something is wrong."""
    kubectl = connect(namespace, context)
    if output is Format.JSON:
        print_json(kubectl.get("infsvc", *([name] if name else [])))
    elif watch:
        with Live(render(kubectl, name), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(LOOK_SECONDS)
                live.update(render(kubectl, name), refresh=True)
    else:
        out.print(render(kubectl, name))


def render(kubectl: Kubectl, name: str | None) -> RenderableType:
    if name:
        return detail(kubectl.get("infsvc", name))
    found = kubectl.get("infsvc")["items"]
    return table(found) if found else "No InferenceService here; `openinference deploy` makes one."


def table(found: list[Json]) -> Table:
    """One line per service."""
    lines = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NAME", "STATE", "REPLICAS", "MODEL", "WHY"):
        lines.add_column(column, overflow="fold")
    for service in found:
        state, told = services.state(service), service.get("status", {})
        lines.add_row(
            service["metadata"]["name"],
            toned(state.tone, state.reason),
            told.get("replicasSummary", "–"),
            told.get("modelName", "–"),
            Text(state.message),
        )
    return lines


def detail(service: Json) -> Group:
    """One service: numbers, revisions, and each condition with its remedy."""
    told, state = service.get("status", {}), services.state(service)
    facts = Table.grid(padding=(0, 2))
    for label, value in (
        ("state", toned(state.tone, state.reason)),
        ("model", told.get("modelName", "–")),
        ("url", told.get("url", "–")),
        ("replicas", _replicas(told)),
        ("revision", _revision(told)),
        ("scaling", told.get("scaling", {}).get("message", "")),
    ):
        if value:
            facts.add_row(f"[dim]{label}[/]", value)
    return Group(f"[bold]{service['metadata']['name']}[/]", facts, "", conditions(service))


def conditions(service: Json) -> Table:
    lines = Table.grid(padding=(0, 2))
    for entry in service.get("status", {}).get("conditions", []):
        tone = services.tone_of(entry)
        words = Text(entry["message"])
        if tone == "bad" and (remedy := services.remedy(entry["reason"])):
            words.append(f"\n→ {remedy}", style="yellow")
        lines.add_row(toned(tone, entry["type"]), f"[dim]{entry['reason']}[/]", words)
    return lines


def _replicas(told: Json) -> str:
    starting = told.get("replicas", 0) - told.get("routableReplicas", 0)
    more = f", {starting} more starting or draining" if starting > 0 else ""
    return f"{told.get('replicasSummary', '–')} take requests{more}"


def _revision(told: Json) -> str:
    current, update = told.get("currentRevision", ""), told.get("updateRevision", "")
    if not current or current == update:
        return str(update or "–")
    return f"{current} → {update}, {told.get('updatedReplicas', 0)} updated"
