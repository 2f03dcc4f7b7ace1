"""`openinference plan`: what an InferenceService would become, without a cluster.

Reads the model's headers from where it is, does the operator's arithmetic on them, and prints the
objects as YAML that can be piped on; what is not an object is a comment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Json
from openinferencev2.output import Format, Output, print_json

if TYPE_CHECKING:
    from openinference_operator.preview import Preview
    from openinference_operator.spec import InferenceService


def plan(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML of InferenceServices.")],
    gpu_memory: Annotated[
        str, typer.Option(help="Memory of one GPU, such as 80Gi: says what fits.")
    ] = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not look at the model; sizes stay unknown.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Print the objects, the memory and the rollout steps of an InferenceService."""
    from openinference_operator.fields import parse_quantity
    from openinference_operator.preview import write

    memory = parse_quantity(gpu_memory) if gpu_memory else None
    if gpu_memory and memory is None:
        told = f"--gpu-memory {gpu_memory!r} is no amount of memory"
        raise CommandError(told, "use a quantity such as 80Gi", Exit.USAGE)
    memories = (int(memory),) if memory else ()
    found = [_foresee(file, each, memories, offline) for each in read(file)]
    for number, each in enumerate(found):
        if output is Format.JSON:
            print_json(each.as_json())
        else:
            print("---\n" if number else "", end="")
            write(each, sys.stdout)
    raise typer.Exit(0 if all(each.fits for each in found) else Exit.FAILED)


def read(file: Path) -> list[Json]:
    """The InferenceServices of a file, which may hold other objects too. Raises CommandError."""
    import yaml

    try:
        documents = [*yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", code=Exit.USAGE) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise CommandError(f"{file} is not YAML: {words}", code=Exit.USAGE) from error
    objects = [each for each in documents if isinstance(each, dict)]
    found = [each for each in objects if each.get("kind") == "InferenceService"]
    if not found:
        remedy = "see docs/examples for some"
        raise CommandError(f"{file} holds no InferenceService", remedy, Exit.USAGE)
    return found


def _foresee(file: Path, raw: Json, memories: tuple[int, ...], offline: bool) -> Preview:
    from openinference_engine.errors import StartError
    from openinference_operator.errors import SpecError
    from openinference_operator.preview import foresee
    from openinference_operator.settings import Settings
    from openinference_operator.spec import parse

    try:
        service = parse(raw)
        result = None if offline else _look_at(service)
    except (SpecError, StartError) as error:
        raise CommandError(f"{file}: {error}", code=Exit.USAGE) from error
    return foresee(service, Settings(), result, memories)


def _look_at(service: InferenceService) -> Any:
    """What the operator would learn of the model; None where only a cluster can see it."""
    from openinference_engine.weights.inspect import inspect
    from openinference_operator.preparation import read_result

    from openinferencev2.model import describe

    if service.model.uri.startswith("pvc://"):
        return None
    return read_result(describe(inspect(service.model.uri, service.model.revision)))
