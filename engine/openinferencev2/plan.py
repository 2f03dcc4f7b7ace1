"""`openinference plan`: what an InferenceService would become, without a cluster.

Reads the model's headers from where it is, does the operator's arithmetic on them, and prints the
objects as YAML that can be piped on; what is not an object is a comment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from openinference_operator.spec import InferenceService

FAILED = 1


def plan(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML of the InferenceService.")],
    gpu_memory: Annotated[
        str, typer.Option(help="Memory of one GPU, such as 80Gi: says what fits.")
    ] = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not look at the model; sizes stay unknown.")
    ] = False,
) -> None:
    """Print the objects, the memory and the rollout steps of an InferenceService."""
    import yaml
    from openinference_engine.errors import StartError
    from openinference_operator.errors import SpecError
    from openinference_operator.fields import parse_quantity
    from openinference_operator.preview import write_preview
    from openinference_operator.settings import Settings
    from openinference_operator.spec import parse

    memory = parse_quantity(gpu_memory) if gpu_memory else None
    if gpu_memory and memory is None:
        raise typer.BadParameter(f"--gpu-memory {gpu_memory!r}: use a quantity such as 80Gi")
    try:
        service = parse(yaml.safe_load(file.read_text()))
        result = None if offline else _look_at(service)
    except (OSError, yaml.YAMLError, SpecError, StartError) as error:
        print(f"openinference: {file}: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    memories = (int(memory),) if memory else ()
    fits = write_preview(service, Settings(), sys.stdout, result, memories)
    raise typer.Exit(0 if fits else FAILED)


def _look_at(service: InferenceService) -> Any:
    """What the operator would learn of the model; None where only a cluster can see it."""
    from openinference_engine.weights.inspect import inspect
    from openinference_operator.preparation import read_result

    from openinferencev2.model import describe

    if service.model.uri.startswith("pvc://"):
        return None
    return read_result(describe(inspect(service.model.uri, service.model.revision)))
