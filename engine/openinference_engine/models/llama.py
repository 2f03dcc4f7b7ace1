"""The Llama family: pre-norm blocks of attention and gated MLP, or of attention and experts.

Llama 2 and 3, SmolLM2, Mistral, Qwen2 (biases), Qwen3 (norms of heads), Mixtral and Qwen3-MoE
(experts) differ only in what their checkpoints hold, which the layers look up.
"""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.batch import Batch
from openinference_engine.config import ModelConfig
from openinference_engine.layers.attention import Attention, KVCache
from openinference_engine.layers.embedding import Vocabulary
from openinference_engine.layers.experts import Experts
from openinference_engine.layers.mlp import GatedMLP
from openinference_engine.layers.norm import RMSNorm
from openinference_engine.layers.rotary import Rotary
from openinference_engine.weights.loader import Weights


class Llama:
    """Names are those of the checkpoint; `num_positions` bounds the context length.

    A stage of a pipeline has some of the layers; the first embeds, the last has norm and head.
    """

    def __init__(self, weights: Weights, config: ModelConfig, num_positions: int) -> None:
        model, ranks = weights.at("model"), weights.ranks
        self._rotary = Rotary(model, config, num_positions)
        self._layers = [
            LlamaLayer(model.at(f"layers.{layer}"), config, layer) for layer in ranks.layers(config)
        ]
        if ranks.is_first_stage or (ranks.is_last_stage and config.ties_embeddings):
            self._embedding = Vocabulary(model, "embed_tokens.weight", config)
        if ranks.is_last_stage:
            self._norm = RMSNorm(model.at("norm"), config.hidden_size, config.rms_norm_epsilon)
            self._head = (
                self._embedding
                if config.ties_embeddings
                else Vocabulary(weights, "lm_head.weight", config)
            )

    def embed(self, batch: Batch) -> Tensor:
        return self._embedding.embed(batch.token_ids)

    def layers(self, hidden: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        rotary = self._rotary.at(batch.positions)
        for layer in self._layers:
            hidden = layer(hidden, rotary, cache, batch.attention)
        return hidden

    def states(self, hidden: Tensor, batch: Batch) -> Tensor:
        return self._norm(hidden[batch.logit_rows])

    def logits(self, states: Tensor) -> Tensor:
        return self._head.logits(states)


class LlamaLayer:
    def __init__(self, weights: Weights, config: ModelConfig, layer: int) -> None:
        size, epsilon = config.hidden_size, config.rms_norm_epsilon
        self._attention_norm = RMSNorm(weights.at("input_layernorm"), size, epsilon)
        self._attention = Attention(weights.at("self_attn"), config, layer)
        self._mlp_norm = RMSNorm(weights.at("post_attention_layernorm"), size, epsilon)
        mlp = weights.at("mlp")
        self._mlp: GatedMLP | Experts
        if config.experts is not None and mlp.has("gate.weight"):
            self._mlp = Experts(mlp, size, config.experts)
        else:
            self._mlp = GatedMLP(mlp, size, config.intermediate_size)

    def __call__(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: KVCache,
        plan: ops.AttentionPlan,
    ) -> Tensor:
        hidden = hidden + self._attention(self._attention_norm(hidden), rotary, cache, plan)
        return hidden + self._mlp(self._mlp_norm(hidden))
