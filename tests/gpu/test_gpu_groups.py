"""Groups of several GPUs through the whole engine, against one GPU: a process for each other rank.

A pipeline has one GPU's bits. Tensor ranks add a row up in another order and round their terms to
bfloat16, so log-probabilities of the same tokens lie within BOUND of one GPU's, and the rule for
tokens is: where the group draws another one than one GPU does, that one had it within twice BOUND.
In the mode `deterministic` a request gets the same bits from the group alone and among others.
"""

import os
import socket

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, ExpertsConfig, GroupConfig
from openinference_engine.engine import Engine
from openinference_engine.ranks.local import LocalRanks
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shapes import SHAPES
from tests.gpu.test_pipeline import requests, serve

# Each of four ranks has heads, whole groups of 128 columns, and an unequal part of the vocabulary.
MODEL = msgspec.structs.replace(
    SHAPES["tiny"], num_layers=4, hidden_size=512, intermediate_size=1024, num_heads=8,
    num_kv_heads=4, head_dim=64, vocab_size=1031,
)  # fmt: skip
# All experts have every token: where two of them are nearly as likely, rounding changes a choice,
# and nothing bounds what that makes of a logit (0.36 of two in eight, with the emulated kernels).
MIXTURE = msgspec.structs.replace(
    MODEL, architecture="qwen3moe", experts=ExpertsConfig(8, 8, 512, normalises_shares=True)
)
NUM_TOKENS, BOUND = 24, 0.05  # logits have a standard deviation of about one
LENGTHS = (3, 19, 7, 90, 41)  # the longer ones by the kernels for prompts

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def new_engine(tmp_path_factory):
    """(sizes of the group, settings) → an engine over as many GPUs; skips where there are fewer."""
    folders = {model: tmp_path_factory.mktemp("groups") / "model" for model in (MODEL, MIXTURE)}
    for model, folder in folders.items():
        write_checkpoint(folder, model)

    def build(sizes, model=MODEL, **settings):
        folder = folders[model]
        group = GroupConfig(**sizes, rendezvous=free_address())
        if torch.cuda.device_count() < group.num_ranks:
            pytest.skip(f"needs {group.num_ranks} GPUs; ranks run emulated in the tests beside it")
        config = EngineConfig(
            f"file://{folder}", device="cuda", max_sequences=len(LENGTHS), group=group,
            prefix_caching=False, max_model_len=256, **settings,
        )  # fmt: skip
        if group.pods > 1:
            pods.extend(start_pod(config, pod) for pod in range(1, group.pods))
        engine = Engine(open_checkpoint(folder), config)
        engine.warm_up()
        engines.append(engine)
        return engine

    engines, pods = [], []
    yield build
    for engine in engines:
        if engine.config.group.num_ranks > 1:
            engine.runner.close()
    for pod in pods:
        pod.end()


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start_pod(config, index):
    """The ranks of another pod, with GPUs of its own."""
    group = msgspec.structs.replace(config.group, pod=index)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7").split(",")
    own = [gpus[rank] for rank in group.ranks_of(index)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", ",".join(own))
        patch.setenv("NCCL_HOSTID", f"pod-{index}")
        config = msgspec.structs.replace(config, group=group)
        return LocalRanks(config, group.rendezvous)


@pytest.fixture(scope="module")
def prompts():
    random = torch.Generator().manual_seed(3)
    return [torch.randint(0, MODEL.vocab_size, (n,), generator=random).tolist() for n in LENGTHS]


@pytest.fixture(scope="module", params=["bfloat16", "int4"])
def of_one_gpu(request, new_engine, prompts):
    """Its format, what it draws greedily, and how it rates that once more as a prompt."""
    engine = new_engine({}, weights=request.param)
    drawn = draw(engine, prompts)
    texts = [[*prompt, *tokens_of(one)] for prompt, one in zip(prompts, drawn, strict=True)]
    return request.param, drawn, texts, rate(engine, texts)


def draw(engine, prompts):
    params = SamplingParams(seed=0, max_tokens=NUM_TOKENS, temperature=0, num_logprobs=5)
    asked = [Request(str(index), prompt, params) for index, prompt in enumerate(prompts)]
    return list(serve(engine, asked).values())


def rate(engine, texts):
    """Log-probabilities of all tokens of each text but the first."""
    params = SamplingParams(seed=0, max_tokens=1, temperature=0, num_prompt_logprobs=0)
    asked = [Request(str(index), text, params) for index, text in enumerate(texts)]
    serve(engine, asked)
    return [torch.tensor([one.logprob for one in each.prompt_logprobs]) for each in asked]


def tokens_of(drawn):
    return [token for token, _ in drawn]


@pytest.mark.parametrize("stages", [2, 4])
def test_pipeline_draws_what_one_gpu_does(new_engine, stages):
    """Bit for bit, whoever comes and goes meanwhile."""
    group, single = (
        new_engine({"pipeline": count}, is_deterministic=True) for count in (stages, 1)
    )
    assert serve(group, requests(), aborts=("4",)) == serve(single, requests(), aborts=("4",))


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("is_deterministic", [True, False])
def test_stages_in_pods_of_their_own_draw_what_one_stage_does(
    new_engine, prompts, tensor, is_deterministic, monkeypatch
):
    """Bit for bit, prompts of many rows too. NCCL takes the pods for different hosts."""
    monkeypatch.setenv("NCCL_HOSTID", "pod-0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    apart, alone = (
        new_engine(sizes | {"tensor": tensor}, is_deterministic=is_deterministic)
        for sizes in ({"pipeline": 2, "pods": 2}, {})
    )
    if is_deterministic:
        assert serve(apart, requests(), aborts=("4",)) == serve(alone, requests(), aborts=("4",))
    for prompt in prompts:
        assert draw(apart, [prompt]) == draw(alone, [prompt])


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_ranks_rate_and_draw_as_one_gpu_does(new_engine, prompts, of_one_gpu, ranks):
    weights, expected, texts, rated = of_one_gpu
    group = new_engine({"tensor": ranks}, weights=weights)
    for ours, theirs in zip(rate(group, texts), rated, strict=True):
        assert (ours - theirs).abs().max() < BOUND
    num_equal = sum(map(check_draws, draw(group, prompts), expected))
    assert num_equal > NUM_TOKENS  # of 120: else near ties would excuse all


def check_draws(ours, theirs, bound=BOUND):
    """How many are equal, until one GPU had two nearly as likely and the group took the other."""
    for count, ((token, rating), (other, of_other)) in enumerate(zip(ours, theirs, strict=True)):
        logprobs = dict(zip(of_other.top_ids, of_other.top_logprobs, strict=True))
        if token != other:
            assert logprobs[token] > of_other.logprob - 2 * bound
            return count
        assert abs(rating.logprob - of_other.logprob) < bound
    return len(ours)


@pytest.mark.parametrize(
    "sizes",
    [{"tensor": 2}, {"expert": 2}, {"tensor": 2, "expert": 2}, {"pipeline": 2, "expert": 2}],
    ids=str,
)
def test_ranks_share_experts(new_engine, prompts, sizes):
    """Within twice the bound: a share of an expert is what rounding changes, too."""
    expected = draw(new_engine({}, MIXTURE), prompts)
    drawn = draw(new_engine(sizes, MIXTURE), prompts)
    pairs = zip(drawn, expected, strict=True)
    assert sum(check_draws(*pair, bound=2 * BOUND) for pair in pairs) > NUM_TOKENS


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_a_pipeline_of_teams_draws_what_one_team_does(new_engine, is_deterministic):
    """Bit for bit where bits do not depend on what is beside a row; and one request else."""
    team, pipeline = (
        new_engine({"tensor": 2, "pipeline": stages}, is_deterministic=is_deterministic)
        for stages in (1, 2)
    )
    asked = slice(None) if is_deterministic else slice(1)
    assert serve(pipeline, requests()[asked]) == serve(team, requests()[asked])


@pytest.mark.parametrize("ranks", [2, 4])
def test_bits_of_tensor_ranks_depend_on_the_request_alone(new_engine, prompts, ranks):
    group = new_engine({"tensor": ranks}, is_deterministic=True)
    together = draw(group, prompts)
    assert together == [draw(group, [prompt])[0] for prompt in prompts]
