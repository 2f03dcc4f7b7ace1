"""Folders of codes whose parts do not fit one another: told in one sentence, by their names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.safetensors_writer import RawTensor, write_safetensors
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.safetensors_file import SafetensorsFile

from tests.engine import foreign_codes

DOWN = foreign_codes.DOWN
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def folders(
    make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One of each layout that is known."""
    made = tmp_path_factory.mktemp("codes")
    source = make_tiny_model(
        hidden_size=foreign_codes.OUTPUTS,
        intermediate_size=foreign_codes.INPUTS,
        num_attention_heads=4,
    )
    codes = foreign_codes.random_parts(4, 128)
    order = (np.arange(foreign_codes.INPUTS) // 128).astype(np.int32)
    foreign_codes.write_gptq(source, made / "gptq", *codes, 4, 128, g_idx=order)
    foreign_codes.write_awq(source, made / "awq", *codes)
    for name in ("int4-zero", "int8", "fp8"):
        quantise_folder(source, made / name, SCHEMES[name])
    return {path.name: path for path in made.iterdir()}


def flat(array: Any) -> Any:
    return array.reshape(-1)


def shorter(array: Any) -> Any:
    return array[:-1]


def doubled(array: Any) -> Any:
    return array.astype(np.int64)


@pytest.mark.parametrize(
    ("layout", "part", "change", "message"),
    [
        ("gptq", ".qweight", flat, r"qweight is int32 of shape \(4096,\), where a matrix of words"),
        ("gptq", ".qzeros", flat, r"qzeros is int32 of shape \(32,\), where a matrix of words"),
        ("gptq", ".scales", flat, r"scales is float16 of shape \(256,\), where a matrix of scales"),
        ("gptq", ".qweight", doubled, r"qweight is int64 of shape .*, where a matrix of words"),
        ("gptq", ".g_idx", lambda groups: groups[:, None], "its 256 inputs do not fit 2 groups"),
        ("gptq", ".g_idx", lambda groups: groups.astype(np.float32), "do not fit 2 groups"),
        ("awq", ".qweight", flat, r"qweight is int32 of shape \(4096,\), where a matrix of words"),
        ("int4-zero", ".weight_packed", flat, r"weight_packed is int32 of shape \(4096,\), where"),
        ("int4-zero", ".weight_packed", doubled, "weight_packed is int64 of shape"),
        ("int4-zero", ".weight_shape", shorter, r"weight_shape is \[128\], where two numbers of"),
        ("int4-zero", ".weight_shape", lambda shape: shape * 0, r"weight_shape is \[0, 0\], where"),
        ("int4-zero", ".weight_zero_point", flat, "weight_zero_point is int32 of shape"),
        ("int4-zero", ".weight_zero_point", shorter, r"zeros \(15, 2\) do not fit scales"),
        ("int8", ".weight_packed", flat, r"weight_packed is int32 of shape \(8192,\), where"),
        ("fp8", ".weight", flat, r"weight is uint8 of .* matrix of int8 or e4m3"),
        ("fp8", ".weight_scale", doubled, "weight_scale is int64 of shape"),
    ],
)
def test_part_that_does_not_fit_is_told(
    folders: dict[str, Path],
    tmp_path: Path,
    layout: str,
    part: str,
    change: Change,
    message: str,
) -> None:
    """Most ended with a traceback in the middle of loading."""
    folder = shutil.copytree(folders[layout], tmp_path / "damaged")
    change_tensor(folder, DOWN + part, change)
    with pytest.raises(StartError, match=message):
        Engine(open_checkpoint(folder), EngineConfig("", max_sequences=1))


def change_tensor(folder: Path, name: str, change: Change) -> None:
    """In the file of the folder that has it."""
    for path in folder.glob("*.safetensors"):
        file = SafetensorsFile(path)
        if name not in file.entries:
            continue
        tensors = {
            each: RawTensor(entry.dtype, entry.shape, file.array(each).copy())
            for each, entry in file.entries.items()
        }
        data = np.ascontiguousarray(change(tensors[name].data))
        types = {np.dtype(np.int64): "I64", np.dtype(np.float32): "F32"}
        kind = types.get(data.dtype, tensors[name].dtype)
        write_safetensors(path, tensors | {name: RawTensor(kind, data.shape, data)})
        return
    raise AssertionError(f"no file has {name}")
