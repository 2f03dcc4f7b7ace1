"""`openinference deploy`: apply an InferenceService, from a file or from a few flags, and wait."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from openinferencev2 import services
from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Context, Json, Kubectl, Namespace, connect
from openinferencev2.output import Format, Output, out, print_json, remarks

LOOK_SECONDS = 1.0


def deploy(
    name: Annotated[str | None, typer.Argument(help="Name of the service.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A manifest, instead of the flags below.")
    ] = None,
    model: Annotated[str, typer.Option(help="URI of the weights.")] = "",
    replicas: Annotated[int | None, typer.Option(min=0, help="Default: 1.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs of one replica.")] = None,
    max_sequences: Annotated[int | None, typer.Option(min=1, help="Seats of a replica.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    wait: Annotated[bool, typer.Option(help="Return once the service is Ready.")] = True,
    timeout_seconds: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 600,
    dry_run: Annotated[bool, typer.Option(help="Print the manifest and apply nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Serve a model, or change how it is served, and wait until that is so."""
    if file is None:
        made = manifest(name, model, replicas, gpus, max_sequences)
        if dry_run:
            return print_json(made)
        source, stdin = "-", json.dumps(made)
    else:
        source, stdin = str(file), ""
    kubectl = connect(namespace, context)
    extra = ("--dry-run=server",) if dry_run else ()
    applied = kubectl.run("apply", f"--filename={source}", *extra, "--output=json", stdin=stdin)
    for each in _services(json.loads(applied)):
        if wait and not dry_run:
            each = wait_ready(kubectl, each["metadata"]["name"], timeout_seconds)
        _tell(each, output)
    return None


def manifest(
    name: str | None,
    model: str,
    replicas: int | None,
    gpus: int | None,
    max_sequences: int | None,
) -> Json:
    """An InferenceService of what was said; what was not is left to the operator's defaults."""
    if not name or not model:
        raise CommandError(
            "there is nothing to deploy",
            "say NAME and --model URI, or --file MANIFEST",
            Exit.USAGE,
        )
    spec: Json = {"model": {"uri": model}}
    if replicas is not None:
        spec["replicas"] = replicas
    if max_sequences is not None:
        spec["engine"] = {"maxSequences": max_sequences}
    if gpus is not None:
        spec["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    return {
        "apiVersion": "openinference.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": spec,
    }


def wait_ready(kubectl: Kubectl, name: str, timeout_seconds: float) -> Json:
    """Look until the service is Ready in its present spec, and tell what it waits for.

    Raises CommandError: FAILED as soon as waiting is in vain, TIMEOUT at the end of the time.
    """
    deadline = time.monotonic() + timeout_seconds
    with remarks.status(f"{name}: applied") as spinner:
        while not is_ready(service := kubectl.get("infsvc", name)):
            if time.monotonic() > deadline:
                raise too_late(service, timeout_seconds)
            state = services.state(service)
            spinner.update(f"{name}: {state.reason}: {state.message}")
            time.sleep(LOOK_SECONDS)
    return service


def is_ready(service: Json) -> bool:
    """Whether it serves what its spec says. Raises CommandError where waiting is in vain."""
    if services.is_settled(service):
        return True
    if reason := services.failure(service):
        remedy = services.remedy(reason.partition(":")[0])
        raise CommandError(f"{service['metadata']['name']} failed: {reason}", remedy)
    return False


def too_late(service: Json, timeout_seconds: float) -> CommandError:
    """What a service still waits for when nobody waits for it any longer."""
    name, state = service["metadata"]["name"], services.state(service)
    return CommandError(
        f"{name} is not Ready after {timeout_seconds:g} s: {state.message}",
        services.remedy(state.reason) or f"`openinference status {name}` tells more",
        Exit.TIMEOUT,
    )


def _services(applied: Json) -> list[Json]:
    items: list[Json] = applied.get("items", [applied])
    return [item for item in items if item.get("kind") == "InferenceService"]


def _tell(service: Json, output: Format) -> None:
    if output is Format.JSON:
        return print_json(service)
    name, state = service["metadata"]["name"], services.state(service)
    out.print(f"{name}: {state.reason}: {state.message}")
    out.print(f"Ask it: openinference chat {name}", style="dim")
    return None
