"""Small Mixtral, Qwen3-MoE and Qwen3 models through scheduler, decoder and kernels, against the
engine on a CPU, which other tests hold to transformers.

It computes in float32 on the same weights; bound and rule for tokens as in test_cuda_runner.py.
"""

import msgspec
import pytest
import torch
import transformers
from openinference_engine.config import ExpertsConfig
from openinference_engine.errors import EngineError, StartError
from openinference_engine.kv_formats import CODED_FORMATS
from openinference_engine.llama_weights import load_llama
from openinference_engine.weight_sizes import weight_bytes
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import changed
from tests.gpu.sparse_model import SparseCheckpoint, cpu_engine
from tests.gpu.test_cuda_runner import BOUND, build_runner, check_greedy, generate, prompts_of
from tests.gpu.test_team import CONFIG as TEAM_CONFIG
from tests.gpu.test_team import build_team

ROWS_BOUND = 2 * BOUND  # of 2,871 logits instead of 99; seen: 0.057

MODELS = {
    "mixtral": changed(architecture="mixtral", experts=ExpertsConfig(5, 2, 96, True)),
    "qwen3moe": changed(architecture="qwen3moe", experts=ExpertsConfig(9, 4, 64, False)),
    "qwen3": changed(architecture="qwen3"),
}

models = pytest.mark.parametrize("model", MODELS)


@models
def test_greedy_tokens_follow_the_engine_on_a_cpu(place, model):
    checkpoint = SparseCheckpoint(MODELS[model], dense=(1,) if model == "qwen3moe" else ())
    oracle = cpu_engine(checkpoint)
    prompts = prompts_of(1, 13, 37, 5)
    outputs, _ = generate(build_runner(place, checkpoint), prompts, num_tokens=6)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == 6
        check_greedy(oracle, prompt, output)


@models
def test_logits_are_those_of_a_cpu_within_bf16(place, model):
    checkpoint = SparseCheckpoint(MODELS[model])
    runner, prompt = build_runner(place, checkpoint), prompts_of(29)[0]
    generate(runner, [prompt], num_tokens=1)
    logits = runner._decoder.logits(len(prompt)).cpu()
    torch.testing.assert_close(logits, cpu_engine(checkpoint)(prompt), rtol=0, atol=ROWS_BOUND)


@models
def test_prompts_of_many_rows_follow_the_engine_on_a_cpu(place, prompt_kernels, model):
    checkpoint = SparseCheckpoint(MODELS[model], dense=(1,) if model == "qwen3moe" else ())
    runner, prompt = build_runner(place, checkpoint, prompt_kernels=prompt_kernels), prompts_of(40)
    ((output,), _) = generate(runner, prompt, num_tokens=3)
    check_greedy(cpu_engine(checkpoint), prompt[0], output)


@pytest.mark.parametrize("weight_format", ["fp8", "int4-zero"])
def test_packed_experts_follow_the_engine_on_their_rounded_matrices(place, weight_format):
    """Two formats stand for all: test_expert_ops.py has each of them."""
    config = changed(
        architecture="qwen3moe", hidden_size=256, num_heads=2, head_dim=128,
        intermediate_size=384, experts=ExpertsConfig(5, 2, 128, True),
    )  # fmt: skip
    runner = build_runner(place, SparseCheckpoint(config), weight_format)
    oracle = cpu_engine(SparseCheckpoint(config, rounded_to=weight_format))
    prompts = prompts_of(3, 21)
    outputs, _ = generate(runner, prompts, num_tokens=4)
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(oracle, prompt, output)


def test_codes_of_normed_keys_follow_the_engine_on_a_cpu(place):
    checkpoint = SparseCheckpoint(MODELS["qwen3moe"])
    runner = build_runner(place, checkpoint, cache_format=CODED_FORMATS["int8"])
    prompt = prompts_of(21)[0]
    ((output,), _) = generate(runner, [prompt], num_tokens=4)
    check_greedy(cpu_engine(checkpoint), prompt, output, 2 * BOUND)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Mixtral", {}), ("Qwen3Moe", {"moe_intermediate_size": 64, "mlp_only_layers": [0]})],
)
def test_checkpoints_of_transformers_are_served_as_it_does(place, tmp_path, family, changes):
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=99, hidden_size=192, head_dim=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=128,
        initializer_range=192**-0.5, num_local_experts=5, num_experts_per_tok=2, **changes,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):
            parameter.data *= 4  # as in SparseCheckpoint
        elif parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    model.bfloat16().save_pretrained(tmp_path)
    prompt = prompts_of(21)[0]
    runner = build_runner(place, open_checkpoint(tmp_path))
    ((output,), _) = generate(runner, [prompt], num_tokens=5)
    oracle = model.float()

    @torch.inference_mode()
    def logits(token_ids):
        return oracle(torch.tensor([token_ids])).logits[0]

    check_greedy(logits, prompt, output)


def check_team(place, config, ranks, weight_format="bfloat16", expert=1, dense=()):
    """A team's tokens are the model's, and all its ranks hold the same logits, bit for bit."""
    if place.device.type == "cuda":
        pytest.skip("ranks of one process would wait for one another on one stream")
    checkpoint = SparseCheckpoint(config, dense=dense)
    runner, send, threads, memory = build_team(place, checkpoint, ranks, weight_format, expert)
    prompts = prompts_of(3, 9)
    outputs, _ = generate(runner, prompts, num_tokens=3)
    send(None)
    for thread in threads:
        thread.join()
    rounded_to = "" if weight_format == "bfloat16" else weight_format
    oracle = cpu_engine(SparseCheckpoint(config, rounded_to=rounded_to, dense=dense))
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(oracle, prompt, output)
    for logits in memory.logits[1:]:
        assert torch.equal(logits, memory.logits[0])


def test_a_team_of_ranks_norms_heads(place):
    check_team(place, msgspec.structs.replace(TEAM_CONFIG, architecture="qwen3"), 2, "int4")


@pytest.mark.parametrize(
    ("ranks", "expert"), [(2, 1), (2, 2), (4, 2)], ids=["sliced", "whole", "slices of some"]
)
@pytest.mark.parametrize("family", ["mixtral", "qwen3moe"])
def test_a_team_of_ranks_shares_experts(place, family, ranks, expert):
    """By parts of each, by whole ones, or both."""
    experts = ExpertsConfig(6, 3, 64, family == "mixtral")
    config = msgspec.structs.replace(TEAM_CONFIG, architecture=family, experts=experts)
    dense = (1,) if family == "qwen3moe" else ()
    check_team(place, config, ranks, expert=expert, dense=dense)


@pytest.mark.parametrize("expert", [1, 2])
def test_a_team_of_ranks_shares_packed_experts(place, expert):
    experts = ExpertsConfig(4, 2, 256, True)
    config = msgspec.structs.replace(TEAM_CONFIG, architecture="qwen3moe", experts=experts)
    check_team(place, config, 2, "int4", expert)


def test_nan_in_a_router_is_an_error_that_names_the_request(place):
    spoilt = "model.layers.1.mlp.gate.weight"
    checkpoint = SparseCheckpoint(MODELS["mixtral"], spoilt=spoilt)
    with pytest.raises(EngineError, match="request 0: its logits are not numbers"):
        generate(build_runner(place, checkpoint), prompts_of(3), num_tokens=2)


@pytest.mark.parametrize("weight_format", ["bfloat16", "int4"])
def test_memory_is_planned_for_all_experts(weight_format):
    config = changed(
        architecture="qwen3moe", hidden_size=256, num_heads=2, head_dim=128,
        intermediate_size=384, experts=ExpertsConfig(5, 2, 128, True),
    )  # fmt: skip
    source = Weights(SparseCheckpoint(config), torch.bfloat16)
    weights = load_llama(source, config, 64, torch.device("cpu"), weight_format)
    tensors = [weights.embedding, weights.head, weights.rotary]
    for layer in weights.layers:
        tensors += [layer.qkv, layer.output, layer.router, layer.gate_up, layer.down]
    taken = sum(tensor.nbytes for tensor in tensors)
    assert weight_bytes(config, weight_format, 64) == pytest.approx(taken, rel=0.02)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        (ExpertsConfig(300, 2, 96, True), "the model has 300 experts, 2 for each token"),
        (ExpertsConfig(40, 20, 96, True), "40 experts, 20 for each token"),
        (ExpertsConfig(5, 2, 72, True), "the experts' intermediate_size 72: .* multiple of 32"),
    ],
)
def test_experts_that_kernels_do_not_know_are_refused_before_weights_are_read(experts, message):
    unread = Weights(None, torch.bfloat16)
    with pytest.raises(StartError, match=message):
        load_llama(unread, changed(experts=experts), 16, torch.device("cpu"))
