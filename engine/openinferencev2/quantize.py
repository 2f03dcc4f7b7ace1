"""`openinference quantize`: a model in fewer bits, as a folder that this and other engines read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openinferencev2.errors import CommandError, Exit
from openinferencev2.output import Format, Output, out, print_json, remarks


class Kind(StrEnum):
    INT4 = "int4"
    INT4_ZERO = "int4-zero"
    INT8 = "int8"
    FP8 = "fp8"


def quantize(
    model: Annotated[
        str, typer.Argument(help="A URI as serve takes it, a folder or a .gguf file.")
    ],
    folder: Annotated[Path, typer.Argument(help="The new folder.")],
    weights: Annotated[
        Kind,
        typer.Option(help="int4-zero has a zero point per group; fp8 is e4m3, a scale per row."),
    ] = Kind.INT4,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="A text file like what the model will read: weights are then chosen by GPTQ, so "
            "that the layers' outputs on it stay. Without one each weight is rounded to nearest."
        ),
    ] = None,
    calibration_tokens: Annotated[
        int, typer.Option(min=1, help="How much of the text is used, in samples of 512 tokens.")
    ] = 16384,
    group_size: Annotated[
        int, typer.Option(min=32, help="Inputs behind one scale; fp8 has one scale per row.")
    ] = 128,
    output: Output = Format.TEXT,
) -> None:
    """Write a model in 4 or 8 bits, in the layout of compressed-tensors."""
    from openinference_engine.errors import StartError
    from openinference_engine.quantise.folder import quantise_folder
    from openinference_engine.quantise.scheme import SCHEMES
    from openinference_engine.weights.uri import resolve
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    scheme = SCHEMES[weights.value].with_groups_of(group_size)
    text = None if calibration is None else _read(calibration)
    columns = ("layers", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=remarks) as bar:
            task = bar.add_task("layers", total=None)
            quantise_folder(
                resolve(model if "://" in model else f"file://{Path(model).absolute()}"),
                folder,
                scheme,
                text,
                calibration_tokens,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
    except StartError as error:
        raise CommandError(str(error), code=Exit.USAGE) from error
    size = sum(path.stat().st_size for path in folder.iterdir())
    uri = f"file://{folder.absolute()}"
    if output is Format.JSON:
        print_json({"uri": uri, "bytes": size})
    else:
        out.print(f"{folder}: {size / 1e6:,.1f} MB; openinference serve {uri}")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"--calibration {path}: {error}", "give a text file in UTF-8", Exit.USAGE
        ) from error
