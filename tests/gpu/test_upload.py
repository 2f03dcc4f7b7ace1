"""A checkpoint's arrays reach the device whole, whatever their type, order and number of pieces."""

import numpy as np
import pytest
import torch
from openinference_engine.errors import StartError
from openinference_engine.weights import upload as module
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.upload import opened_upload

from tests.gpu.random_model import CONFIG, RandomCheckpoint


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; the same runs without pinned memory beside this test")
    return torch.device(request.param)


@pytest.fixture
def small_buffers(monkeypatch):
    monkeypatch.setattr(module, "_BUFFER_BYTES", 1000)


def test_an_array_of_many_pieces_arrives_whole(device, small_buffers):
    arrays = [np.random.default_rng(seed).random((seed + 1, 777), np.float32) for seed in range(9)]
    with opened_upload(device) as upload:
        targets = [upload.tensor(array) for array in arrays]
        list(upload.in_turn([lambda: None]))
    for tensor, array in zip(targets, arrays, strict=True):
        assert np.array_equal(tensor.cpu().numpy(), array)


@torch.inference_mode()
def test_a_program_in_inference_mode_loads_too(device):
    """Whose tensors other threads, which are in no such mode, may not fill."""
    array = np.arange(1000, dtype=np.float32)
    with opened_upload(device) as upload:
        target = upload.tensor(array)
        list(upload.in_turn([lambda: None]))
    assert np.array_equal(target.cpu().numpy(), array)


def test_a_load_is_finished_when_the_next_one_has_begun(device):
    events = []

    def begin(number):
        events.append(f"begin {number}")
        return lambda: events.append(f"finish {number}")

    with opened_upload(device) as upload:
        list(upload.in_turn(map(begin, range(3))))
    assert events == ["begin 0", "begin 1", "finish 0", "begin 2", "finish 1", "finish 2"]


def test_what_fails_in_a_thread_fails_the_load(device):
    with opened_upload(device) as upload:
        target = torch.empty(3, dtype=torch.int32, device=device)
        upload.copy(np.zeros(4, np.int32), target)
        with pytest.raises(RuntimeError):
            list(upload.in_turn([lambda: target]))


class HalfPrecision(RandomCheckpoint):
    """The same weights as float16, which becomes bfloat16 on the device."""

    def array(self, name, rows=slice(None), columns=slice(None)):
        bits = super().array(name, rows, columns).view(np.int16)
        return torch.from_numpy(bits).view(torch.bfloat16).half().numpy()


@pytest.mark.parametrize("kind", [RandomCheckpoint, HalfPrecision])
def test_matrices_are_stacked_in_their_order(device, small_buffers, kind):
    weights = Weights(kind(CONFIG), torch.bfloat16).at("model").at("layers.0").at("mlp")
    sizes = {"gate_proj": CONFIG.intermediate_size, "up_proj": CONFIG.intermediate_size}
    with opened_upload(device) as upload:
        begun = [Stack(weights, sizes, CONFIG.hidden_size, upload).dense]
        (whole,) = upload.in_turn(begun)
    parts = [weights.tensor(f"{name}.weight", (160, 192)) for name in sizes]
    assert torch.equal(whole.cpu(), torch.cat(parts))


def test_a_matrix_of_another_shape_is_refused(device):
    weights = Weights(RandomCheckpoint(CONFIG), torch.bfloat16)
    with (
        opened_upload(device) as upload,
        pytest.raises(StartError, match=r"lm_head.weight has shape \(99, 192\)"),
    ):
        Stack(weights, {"lm_head": 98}, 192, upload)
