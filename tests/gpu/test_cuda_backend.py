"""What a GPU cannot do is said before weights are read, with the arithmetic and a remedy."""

import sys
from types import SimpleNamespace

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, ExpertsConfig, GroupConfig
from openinference_engine.cuda_backend import (
    check_products,
    check_settings,
    find_gpu,
    plan_memory,
)
from openinference_engine.cuda_paths import kernel_path, op_paths
from openinference_engine.errors import StartError
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.prefill import row_bytes
from openinference_engine.weight_sizes import weight_bytes

from benchmarks.shapes import SHAPES

LLAMA_7B = SHAPES["llama-2-7b"]
GIB = 1 << 30


CODES = {"weights": "int8", "activations": "int8"}


def config(**fields):
    return EngineConfig("", device="cuda", **fields)


def test_weights_of_a_7b_model_take_what_is_known():
    billions = {"bfloat16": 6.74 * 2, "fp8": 6.74, "int8": 6.74, "int4": 3.37, "int4-zero": 3.37}
    for name, gigabytes in billions.items():
        assert weight_bytes(LLAMA_7B, name, 4096) / 1e9 == pytest.approx(gigabytes, rel=0.14)


def test_what_weights_and_steps_leave_is_for_the_cache():
    spare = plan_memory(LLAMA_7B, config(max_model_len=4096), 79 * GIB)
    assert spare == 79 * GIB - weight_bytes(LLAMA_7B, "bfloat16", 4096) - GIB


def test_weights_that_do_not_fit_say_the_arithmetic_and_what_would():
    with pytest.raises(StartError) as error:
        plan_memory(LLAMA_7B, config(max_model_len=4096), 15 * GIB)
    assert str(error.value) == (
        "--weights bfloat16: the model takes 12.6 GiB, one sequence of --max-model-len 4096 "
        "2.0 GiB and the steps 1.0 GiB, but 15.0 GiB of the GPU's memory are free; use "
        "--weights fp8 or --weights int8 or --weights int4 or --weights int4-zero or "
        "--kv-cache-dtype fp8 or --kv-cache-dtype int8 or --kv-cache-dtype int8-int4 or "
        "--kv-cache-dtype int4 or --max-model-len 2964 or --tensor 2 on as many GPUs"
    )


def test_keys_and_values_of_fewer_bits_fit_where_bfloat16_does_not():
    fields = {"max_model_len": 4096}
    with pytest.raises(StartError, match=r"use .*--kv-cache-dtype int4 or"):
        plan_memory(LLAMA_7B, config(**fields), 15 * GIB)
    spare = plan_memory(LLAMA_7B, config(kv_cache_dtype="int8-int4", **fields), 15 * GIB)
    copy = 2 * 2 * 4096 * 4096  # keys and values of a layer in bf16, which prompts read
    assert spare == 15 * GIB - weight_bytes(LLAMA_7B, "bfloat16", 4096) - GIB - copy


def test_steps_of_many_rows_are_planned_for():
    """Buffers of prompts are made when the cache has the rest: 16,384 rows found no room there."""

    def spare(rows, **fields):
        return plan_memory(
            LLAMA_7B, config(max_model_len=4096, max_step_tokens=rows, **fields), 79 * GIB
        )

    more = 16_384 - 2048
    assert spare(512) == spare(2048)
    assert spare(2048) - spare(16_384) == more * row_bytes(LLAMA_7B, is_coded=False)
    codes = {"weights": "fp8", "activations": "fp8"}
    assert spare(16_384, weights="fp8") - spare(16_384, **codes) >= more * 11_008
    message = "the steps 2.8 GiB, .* use .*--max-step-tokens 2048"
    with pytest.raises(StartError, match=message):
        plan_memory(LLAMA_7B, config(max_model_len=4096, max_step_tokens=32_768), 17 * GIB)


@pytest.mark.parametrize(
    ("shape", "fields", "free", "remedy"),
    [
        ("llama-2-70b", {}, 79, "--weights int4-zero or --tensor 2 on as many GPUs"),
        ("llama-2-70b", {"weights": "int4"}, 24, "use --tensor 2 on as many GPUs"),
        ("llama-2-70b", {"weights": "int4"}, 9, "use --tensor 8 on as many GPUs"),
        ("llama-2-13b", {"weights": "int4"}, 4, "use --tensor 4 on as many GPUs"),
        ("llama-2-13b", CODES, 8, "use a GPU with more memory"),  # codes are for one
    ],
)
def test_as_many_gpus_as_hold_the_model_are_a_remedy(shape, fields, free, remedy):
    with pytest.raises(StartError) as error:
        plan_memory(SHAPES[shape], config(max_model_len=4096, **fields), free * GIB)
    assert str(error.value).endswith(remedy)


def test_nothing_that_would_fit_asks_for_another_gpu():
    with pytest.raises(StartError, match="use a GPU with more memory"):
        plan_memory(LLAMA_7B, config(max_model_len=4096), 2 * GIB)


def test_an_answer_is_resumed_by_the_same_mode_alone(monkeypatch):
    """The kernel path is part of the resume key. Cards of one capability split attention alike
    only where they have as many multiprocessors."""
    paths = set()
    for multiprocessors in (114, 132):
        gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=multiprocessors)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        for mode in (False, True):
            paths.add(kernel_path(torch.device("cuda", 0), config(is_deterministic=mode)))
    paths.add(kernel_path(torch.device("cuda", 0), config(**CODES)))
    assert paths == {
        "cuda-sm90-bfloat16",
        "cuda-sm90-int8-activations-int8",
        "cuda-sm90-bfloat16-deterministic-114",
        "cuda-sm90-bfloat16-deterministic-132",
    }


@pytest.mark.parametrize(
    ("capability", "fields", "products", "prompts", "attention"),
    [
        ((8, 0), {}, "few", "rows", "attend"),
        ((9, 0), {}, "few+many", "prefill", "attend+attend_prefill"),
        ((9, 0), {"is_deterministic": True}, "few", "rows", "attend"),
        ((9, 0), {"weights": "int4"}, "few+batch+many", "prefill", "attend+attend_prefill"),
        ((9, 0), CODES, "few+batch+codes-int8", "prefill", "attend+attend_prefill"),
        (
            (9, 0), {"kv_cache_dtype": "int8"},
            "few+many", "prefill", "attend+expand_pages+attend_prefill",
        ),
    ],
)  # fmt: skip
def test_a_path_is_told_for_each_kind_of_op(
    monkeypatch, capability, fields, products, prompts, attention
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    kernels = SimpleNamespace(attend_prefill=None)
    assert op_paths(kernels, torch.device("cuda", 0), config(**fields)) == {
        "products": products, "prompts": prompts, "attention": attention, "drawing": "device",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        ({}, {"dtype": "float32"}, "--dtype float32: a GPU computes in bfloat16"),
        ({}, {"block_size": 32}, "blocks of 32 positions: the CUDA kernels know 16"),
        (
            {},
            {"activations": "fp8"},
            "needs weights in fp8 or int4 or int4-zero, and these are bfloat16; use --weights fp8",
        ),
        ({}, CODES | {"weights": "fp8"}, "needs weights in int8, and these are fp8"),
        ({}, CODES | {"is_deterministic": True}, "--deterministic takes 16 rows at a time"),
        ({}, CODES | {"group": GroupConfig(tensor=2)}, "for dense models on one GPU so far"),
        ({"experts": ExpertsConfig(8, 2, 512, True)}, CODES, "for dense models on one GPU so far"),
        ({"experts": ExpertsConfig(512, 10, 512, True)}, {}, "the model has 512 experts"),
    ],
)
def test_unknown_settings_are_refused(change, fields, message):
    with pytest.raises(StartError, match=message):
        check_settings(msgspec.structs.replace(LLAMA_7B, **change), config(**fields))


def test_a_gpu_without_products_of_codes_is_refused(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    check_products(gpu, config())
    with pytest.raises(StartError, match=r"needs a GPU of .* 9\.0, and NVIDIA A100 has 8\.0"):
        check_products(gpu, config(**CODES))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available"),
        (RuntimeError("The driver is too old (found version 11040).\nSee"), "found version 11040"),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA"),
    ],
)
def test_a_machine_without_a_gpu_says_why_and_what_to_do(monkeypatch, error, reason):
    """A driver that torch is too new for was told of as no GPU."""

    def fail():
        raise error

    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(StartError, match=rf"no GPU .*{reason}.*; give .* or use --device cpu"):
        find_gpu()


def test_a_gpu_older_than_the_kernels_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(StartError, match=r"Tesla T4 has compute capability 7\.5; .* 8\.0 or newer"):
        find_gpu()


def test_an_installation_without_kernels_says_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "openinference_engine._C", None)
    with pytest.raises(StartError, match=r"no CUDA kernels; build them with `make build-cuda`"):
        load_kernels()
