"""What a model asks of the memory of each rank: pure arithmetic on the summary of its headers.

A layer's matrices are cut by the tensor ranks, but for keys and values, of which a head is not cut;
its experts lie on all ranks of their stage; each expert rank has all else, but on GPUs, where it
cuts matrices as a tensor rank does. The first stage embeds and the last has the head, so a rank of
one of these is the fullest of a group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openinference_operator.gpu_format import PLAIN, gpu_format
from openinference_operator.layout import Layout, split_layers
from openinference_operator.manifests.engine import seats
from openinference_operator.spec import InferenceService

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# engine.kvCacheDtype: bits of an element of a key and of a value, and bytes of scales and minima
# beside both (openinference_engine.kv_formats). A CPU computes in float32.
CACHE_BITS = {"fp8": (8, 8, 4), "int8": (8, 8, 4), "int8-int4": (8, 4, 6), "int4": (4, 4, 8)}
FLOAT32_BITS, BFLOAT16_BITS = (32, 32, 0), (16, 16, 0)
# What tensor ranks on GPUs have for each other (openinference_engine.ranks.device_memory): words of
# eight bytes with two columns of a step's rows, in two inboxes, float32 logits of some rows, and
# twice the columns of a step's rows in bfloat16.
STEP_TOKENS, BLOCK_TOKENS, LOGIT_ROWS = 512, 16, 128


@dataclass(frozen=True, slots=True)
class Load:
    """Bytes that one rank holds: weights, and keys and values of one longest sequence."""

    weights: int
    sequence: int

    @property
    def total(self) -> int:
        """With one sequence, without which a rank is of no use."""
        return self.weights + self.sequence


@dataclass(frozen=True, slots=True)
class Demand:
    """A model under the options of a spec; bytes, of all layers together unless said otherwise.

    `matrices`: all but keys and values, experts, embedding and head. `head`: 0 where the embedding
    is the head. `sequence`: keys and values of the longest sequence of so many tokens.
    `layer_cost`, `head_cost`: by which stages are balanced. `inbox`, `parts`, `logits`: of a tensor
    rank on a GPU, the first for each peer. `copy`: of one layer of that sequence, which prompts on
    GPUs read instead of codes (openinference_engine.prompt_attention).
    """

    matrices: int
    keys_and_values: int
    experts: int
    embedding: int
    head: int
    sequence: int
    sequence_tokens: int
    num_layers: int
    num_kv_heads: int
    num_experts: int
    layer_cost: int
    head_cost: int
    is_on_gpus: bool
    inbox: int
    parts: int
    logits: int
    copy: int

    def copy_of(self, layout: Layout) -> int:
        """A rank's heads of `copy`."""
        return -(-self.copy // min(self._slices(layout), self.num_kv_heads))

    def exchange(self, layout: Layout) -> int:
        """What the fullest rank on a GPU has for the others to write to, and for the lanes of a
        pipeline.
        """
        if not self.is_on_gpus or layout.num_ranks == 1:
            return 0
        of_team = layout.ranks_per_stage * self.inbox + self.parts + self.logits
        if layout.pipeline == 1:
            return of_team
        inputs = LOGIT_ROWS * 4 * (self.sequence_tokens + self.sequence_tokens // BLOCK_TOKENS)
        of_lanes = layout.pipeline * self._hops(layout) + (layout.pipeline - 1) * inputs
        return of_lanes + (of_team if layout.ranks_per_stage > 1 else 0)

    def _hops(self, layout: Layout) -> int:
        """Of the fullest stage in each lane: the logits of the last stage, or rows of the one
        before; and what it sends, where the next stage is in another pod.
        """
        stages, stages_of_pod = layout.pipeline, max(1, layout.pipeline // layout.pods)
        rows = self.inbox // 8 * 9  # with their squares and positions, once instead of twice

        def is_far(stage: int) -> bool:
            return layout.pods > 1 and stage % stages_of_pod == 0

        def arriving(stage: int) -> int:
            if stage == 0:
                return self.logits
            return rows // 2 if is_far(stage) else rows  # without marks, as the next pod takes them

        def leaving(stage: int) -> int:
            following = (stage + 1) % stages
            return arriving(following) if is_far(following) else 0

        return max(arriving(stage) + leaving(stage) for stage in range(stages))

    @property
    def weights(self) -> int:
        """Of the whole model."""
        return self.matrices + self.keys_and_values + self.experts + self.embedding + self.head

    def loads(self, layout: Layout) -> tuple[Load, ...]:
        """What the fullest rank of each stage holds."""
        parts = split_layers(self.num_layers, layout.pipeline, self.layer_cost, self.head_cost)
        slices = self._slices(layout)
        heads = min(slices, self.num_kv_heads)
        owners = min(layout.ranks_per_stage, self.num_experts)
        own_experts = -(-self.num_experts // owners) if owners else 0

        def load(stage: int, layers: int) -> Load:
            weights = self._ends(layout, stage)
            weights += self._share(self.matrices, layers, slices)
            weights += self._share(self.keys_and_values, layers, heads)
            if self.is_on_gpus:
                weights += self._share(self.experts, layers, slices)
            elif owners:
                weights += self._share(self.experts * own_experts, layers, self.num_experts)
            return Load(weights, self._share(self.sequence, layers, heads))

        return tuple(load(stage, layers) for stage, layers in enumerate(parts))

    def _slices(self, layout: Layout) -> int:
        """Ranks of a stage that have parts of the same matrix."""
        return layout.ranks_per_stage if self.is_on_gpus else layout.tensor

    def _share(self, of_all_layers: int, layers: int, parts: int) -> int:
        return -(-of_all_layers * layers // (self.num_layers * parts))

    def _ends(self, layout: Layout, stage: int) -> int:
        """Embedding and head in a rank of a stage, which are one where it has both of a tied model.

        A GPU that embeds has all of the embedding, of which its part of the head is rows.
        """
        parts = 1 if self.is_on_gpus else layout.tensor
        embedding = -(-self.embedding // parts) if stage == 0 else 0
        if stage != layout.pipeline - 1:
            return embedding
        head = -(-(self.head or self.embedding) // self._slices(layout))
        return embedding + head if self.head or stage else embedding


def measure(service: InferenceService, summary: Mapping[str, Any]) -> Demand:
    """What a model asks of memory under the spec's options.

    Summaries of older engines do not tell embedding and head apart from the layers.
    """
    heads, layers, head_dim = (
        int(summary[name]) for name in ("numKvHeads", "numLayers", "headDim")
    )
    hidden, vocabulary = (int(summary.get(name, 0)) for name in ("hiddenSize", "vocabSize"))
    tokens = service.engine.max_model_len or int(summary["maxPositions"])
    element = _element_bytes(service, summary)
    embedding, head = _tables(summary, element)
    matrices, keys_and_values, experts = _layers(summary, element, (embedding, head))
    if service.gpus_per_pod and embedding:  # GPUs embed in bfloat16 beside codes, too
        embedding = max(embedding, ELEMENT_BYTES["bfloat16"] * vocabulary * hidden)
    return Demand(
        matrices=matrices,
        keys_and_values=keys_and_values,
        experts=experts,
        embedding=embedding,
        head=head,
        sequence=layers * heads * _head_bytes(service, head_dim) * tokens,
        sequence_tokens=tokens,
        num_layers=layers,
        num_kv_heads=heads,
        num_experts=int(summary.get("numExperts", 0)),
        layer_cost=int(summary.get("layerWeightsPerToken", 1)),
        head_cost=vocabulary * hidden if "layerWeightsPerToken" in summary else 0,
        is_on_gpus=service.gpus_per_pod > 0,
        inbox=2 * 8 * max(_step_rows(service) * hidden // 2, 2 * LOGIT_ROWS),
        parts=2 * ELEMENT_BYTES["bfloat16"] * _step_rows(service) * hidden,
        logits=4 * LOGIT_ROWS * vocabulary,
        copy=_copy_bytes(service, heads * head_dim * tokens),
    )


def _tables(summary: Mapping[str, Any], element: int) -> tuple[int, int]:
    """Bytes of the embedding, and of the head if it is another matrix."""
    stored = int(summary.get("embeddingBytes", 0)), int(summary.get("headBytes", 0))
    if not element:
        return stored
    table = int(summary.get("vocabSize", 0)) * int(summary.get("hiddenSize", 0)) * element
    return table if stored[0] else 0, table if stored[1] else 0


def _layers(
    summary: Mapping[str, Any], element: int, tables: tuple[int, int]
) -> tuple[int, int, int]:
    """Bytes of all layers: of keys and values and of experts as their parameters are of all."""
    hidden, parameters = int(summary.get("hiddenSize", 0)), int(summary["parameters"])
    all_bytes = parameters * element if element else int(summary["weightBytes"])
    of_layers = max(0, all_bytes - sum(tables))
    of_tables = int(summary.get("vocabSize", 0)) * hidden * sum(map(bool, tables))
    of_heads = int(summary["numKvHeads"]) * int(summary["headDim"])
    layer_parameters = max(1, parameters - of_tables)
    keys_and_values, experts = (
        of_layers * min(part, layer_parameters) // layer_parameters
        for part in (
            2 * int(summary["numLayers"]) * hidden * of_heads,
            int(summary.get("expertParameters", 0)),
        )
    )
    experts = min(experts, of_layers - keys_and_values)  # summaries of older engines count words
    return of_layers - keys_and_values - experts, keys_and_values, experts


def _element_bytes(service: InferenceService, summary: Mapping[str, Any]) -> int:
    """Of every weight; 0 where weights are kept as they are stored.

    GPUs make bfloat16 of all but codes that they keep (`gpu_format`), whatever the type.
    """
    if not service.gpus_per_pod:
        return ELEMENT_BYTES.get(service.engine.dtype or "", 0)
    return ELEMENT_BYTES[PLAIN] if gpu_format(summary) == PLAIN else 0


def _step_rows(service: InferenceService) -> int:
    return max(STEP_TOKENS, seats(service) + BLOCK_TOKENS, LOGIT_ROWS)


def _copy_bytes(service: InferenceService, elements: int) -> int:
    """elements: of a layer's keys."""
    is_coded = service.engine.kv_cache_dtype in CACHE_BITS
    return 2 * ELEMENT_BYTES["bfloat16"] * elements if service.gpus_per_pod and is_coded else 0


def _head_bytes(service: InferenceService, head_dim: int) -> int:
    """Of the key and the value of one head and token."""
    plain = BFLOAT16_BITS if service.gpus_per_pod else FLOAT32_BITS
    key, value, beside = CACHE_BITS.get(service.engine.kv_cache_dtype or "", plain)
    return head_dim * (key + value) // 8 + beside
