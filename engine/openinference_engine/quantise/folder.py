"""A model's folder in the layout of compressed-tensors: a file per layer, and what describes it.

Only the projections of layers become codes; embeddings, norms, routers and the head stay as they
are. The folder appears under its name when it is whole.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openinference_engine.errors import StartError
from openinference_engine.quantise.calibration import Calibration, float_matrix, split_samples
from openinference_engine.quantise.description import architecture_of, describe
from openinference_engine.quantise.safetensors_writer import RawTensor, write_safetensors
from openinference_engine.quantise.scheme import (
    Quantised,
    Scheme,
    check_groups,
    round_to_nearest,
)
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import Checkpoint, open_checkpoint
from openinference_engine.weights.codes import pack_words
from openinference_engine.weights.loader import as_tensor
from openinference_engine.weights.safetensors_checkpoint import MIXTRAL_NAMES

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_REST = -1  # what belongs to no layer

Report = Callable[[int, int], None]  # layers done, of how many


def quantise_folder(
    source: Path,
    target: Path,
    scheme: Scheme,
    calibration_text: str | None = None,
    calibration_tokens: int = 16384,
    report: Report = lambda done, total: None,
) -> None:
    """Writes the checkpoint `source` into the new folder `target`, by GPTQ if there is a text.

    Raises StartError if the source cannot be read, the target exists or a matrix does not divide.
    """
    if target.exists():
        raise StartError(f"{target} exists; remove it or name another folder")
    checkpoint = open_checkpoint(source)
    check_groups(scheme, checkpoint.config)
    names = _names_by_layer(checkpoint)
    tokenizer = load_tokenizer(checkpoint, source)
    calibration = None
    if calibration_text is not None:
        token_ids = tokenizer.encode(calibration_text)
        if not token_ids:
            raise StartError("the text to calibrate on is empty; give one of some thousand words")
        samples = split_samples(token_ids, calibration_tokens)
        calibration = Calibration(checkpoint, samples)
    growing = target.with_name(f".{target.name}.partial")
    shutil.rmtree(growing, ignore_errors=True)  # of a process that was killed
    growing.mkdir(parents=True)
    try:
        describe(source, checkpoint, tokenizer, scheme, growing)
        _write_weights(growing, names, _layers(checkpoint, scheme, names, calibration, report))
        growing.rename(target)
    finally:  # what was written so far, maybe most of a model
        shutil.rmtree(growing, ignore_errors=True)


def _names_by_layer(checkpoint: Checkpoint) -> dict[int, list[str]]:
    layers: dict[int, list[str]] = {_REST: []}
    for name in sorted(checkpoint.names()):
        match = _LAYER.match(name)
        layers.setdefault(int(match[1]) if match else _REST, []).append(name)
    return dict(sorted(layers.items()))


def _is_projection(name: str) -> bool:
    return name.endswith("_proj.weight")


def _layers(
    checkpoint: Checkpoint,
    scheme: Scheme,
    names: Mapping[int, list[str]],
    calibration: Calibration | None,
    report: Report,
) -> Iterator[dict[str, RawTensor]]:
    """The tensors of each file, under the names that they are stored by."""
    for done, (layer, members) in enumerate(names.items()):
        report(done, len(names))
        projections = [name for name in members if _is_projection(name) and layer != _REST]
        if calibration is not None and layer != _REST:
            quantised = calibration.quantise(scheme, layer, projections)
        else:
            quantised = {
                name: round_to_nearest(scheme, float_matrix(checkpoint, name))
                for name in projections
            }
        tensors = {name: _kept(checkpoint, name) for name in members if name not in quantised}
        for name, matrix in quantised.items():
            tensors |= _parts(name, matrix)
        yield {_name_in_file(checkpoint, name): tensor for name, tensor in tensors.items()}
    report(len(names), len(names))


def _kept(checkpoint: Checkpoint, name: str) -> RawTensor:
    """A tensor in its own type, or in half precision where that is one of GGUF's blocks."""
    tensor = as_tensor(checkpoint.array(name))
    if checkpoint.stored(name).format not in ("F32", "F16", "BF16"):
        tensor = tensor.half()
    return RawTensor.of(tensor)


def _parts(name: str, matrix: Quantised) -> dict[str, RawTensor]:
    """What stands for a matrix in the file."""
    scales = {f"{name}_scale": RawTensor.of(matrix.scales)}
    if matrix.scheme.kind == "float":
        outputs, inputs = matrix.codes.shape
        return scales | {name: RawTensor("F8_E4M3", (outputs, inputs), matrix.codes.numpy())}
    bits = matrix.scheme.bits
    parts = {
        f"{name}_packed": _words(pack_words(matrix.codes.numpy(), bits)),
        f"{name}_shape": RawTensor("I64", (2,), np.array(matrix.codes.shape, np.int64)),
    }
    if not matrix.scheme.is_symmetric:
        parts[f"{name}_zero_point"] = _words(pack_words(matrix.zeros.T.numpy(), bits).T)
    return scales | parts


def _words(words: Any) -> RawTensor:
    return RawTensor("I32", words.shape, np.ascontiguousarray(words))


def _name_in_file(checkpoint: Checkpoint, name: str) -> str:
    """Mixtral's files have names of their own."""
    if architecture_of(checkpoint.config) != "mixtral":
        return name
    own_names = {standard: own for own, standard in MIXTRAL_NAMES.items()}
    return ".".join(own_names.get(part, part) for part in name.split("."))


def _write_weights(
    folder: Path, names: Mapping[int, list[str]], layers: Iterator[dict[str, RawTensor]]
) -> None:
    places: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(layers, start=1):
        file = f"model-{number:05}-of-{len(names):05}.safetensors"
        total += write_safetensors(folder / file, tensors)
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
