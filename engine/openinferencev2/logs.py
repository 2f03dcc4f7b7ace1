"""`openinference logs`: what all pods of a service say, as lines for people or for programs."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated

import typer

from openinferencev2.kubectl import Context, Json, Namespace, connect
from openinferencev2.operate import Name
from openinferencev2.output import Format, Output


class Part(StrEnum):
    ENGINE = "engine"
    ROUTER = "router"


def logs(
    name: Name,
    part: Annotated[Part, typer.Option(help="Whose.")] = Part.ENGINE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep reading.")] = False,
    tail: Annotated[int, typer.Option(help="Lines of each pod.")] = 100,
    previous: Annotated[bool, typer.Option(help="Of containers that have crashed.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Format.TEXT,
) -> None:
    """Print what all pods of a service say, each line after the pod's name."""
    kubectl = connect(namespace, context)
    kubectl.get("infsvc", name)  # a wrong name would otherwise just print nothing
    selector = f"app.kubernetes.io/component={part}"
    if part is Part.ENGINE:
        selector += f",openinference.dev/service={name}"
    flags = [f"--follow={str(follow).lower()}", f"--previous={str(previous).lower()}"]
    for line in kubectl.lines(
        *("logs", f"--selector={selector}", f"--tail={tail}", "--prefix", "--all-containers"),
        *("--max-log-requests=64", *flags),
    ):
        shown = json.dumps(parse(line), ensure_ascii=False) if output is Format.JSON else line
        print(shown, flush=follow)


def parse(line: str) -> Json:
    """`[pod/demo-1a2b3c4d-0/engine] words` as fields; what our pods say is JSON itself."""
    found = re.match(r"\[pod/([^/]+)/([^\]]+)\] (.*)", line)
    pod, container, words = found.groups() if found else ("", "", line)
    return {"pod": pod, "container": container, "said": _record(words)}


def _record(words: str) -> Json | str:
    """A JSON object as such, anything else as it is."""
    try:
        record = json.loads(words)
    except ValueError:
        return words
    return record if isinstance(record, dict) else words
