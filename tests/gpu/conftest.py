"""Two places where kernels run: a CUDA device, or their own sources emulated on this CPU.

The emulated module is compiled once per change of its sources (seconds, g++ alone) and kept in the
temporary directory. A place that this machine lacks skips with the reason.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from openinference_engine.ops import cuda_experts_reference, cuda_reference

from tests.gpu.op_checks import Inputs

SOURCES = Path(__file__).parents[2] / "csrc"
PARTS = ("CMakeLists.txt", "*.h", "bindings.cpp", "cuda/*", "emulation/*")


@dataclass(frozen=True, slots=True)
class Place:
    """Where ops run: their module, the device of their tensors and the stream to pass."""

    ops: ModuleType
    device: torch.device
    stream: object


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)], scope="session")
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "emulated":
        ops = _load_emulated()
        return Place(ops, torch.device("cpu"), ops.Stream(0, overlaps=False))
    return _cuda_place("the same kernels run emulated beside this test")


@pytest.fixture
def inputs(place: Place) -> Inputs:
    return Inputs(place)


@pytest.fixture
def prompt_kernels(request: pytest.FixtureRequest, place: Place) -> ModuleType | SimpleNamespace:
    """Kernels for whole prompts have no emulation: their references stand in for them."""
    if place.device.type == "cpu":
        return SimpleNamespace(**{**vars(cuda_reference), **vars(cuda_experts_reference)})
    return request.getfixturevalue("hopper").ops


@pytest.fixture(scope="session")
def hopper() -> Place:
    """A GPU of compute capability 9.0, for what cannot be emulated."""
    place = _cuda_place("these kernels cannot be emulated")
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("these kernels need a GPU of compute capability 9.0")
    return place


def _cuda_place(without: str) -> Place:
    if not torch.cuda.is_available():
        pytest.skip(f"no CUDA device; {without}")
    ops = importlib.import_module("openinference_engine._C")
    handle = torch.cuda.current_stream().cuda_stream
    return Place(ops, torch.device("cuda"), ops.Stream(handle, overlaps=True))


def _load_emulated() -> ModuleType:
    if shutil.which("g++") is None or shutil.which("cmake") is None:
        pytest.skip(
            "no g++ or cmake to compile the emulated kernels; on Debian: apt-get install g++ cmake"
        )
    pybind11 = pytest.importorskip(
        "pybind11", reason="pybind11 compiles the emulated kernels' module"
    )
    library = _build_emulated(pybind11.get_cmake_dir())
    specification = importlib.util.spec_from_file_location("_C_emulated", library)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _build_emulated(pybind11_cmake: str) -> Path:
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(p for part in PARTS for p in SOURCES.glob(part)):
        digest.update(path.read_bytes())
    folder = (
        Path(tempfile.gettempdir())
        / f"openinference-kernels-{os.getuid()}-{digest.hexdigest()[:16]}"
    )
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be compiling the same
        if not list(folder.glob("_C_emulated*.so")):
            _compile(folder, pybind11_cmake)
    return next(folder.glob("_C_emulated*.so"))


def _compile(folder: Path, pybind11_cmake: str) -> None:
    configure = ["cmake", "-S", SOURCES, "-B", folder, "-DOPENINFERENCE_NATIVE=emulated"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_cmake}"]
    for command in (configure, ["cmake", "--build", folder, "--parallel", "2"]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
