"""Models with experts and norms of heads, of random weights, and the engine on a CPU for them."""

from dataclasses import dataclass

import numpy as np
import torch
from openinference_engine.layers.attention import KVCache
from openinference_engine.llama_weights import head_format
from openinference_engine.models.registry import build_model
from openinference_engine.packings import PACKINGS
from openinference_engine.runner import Runner
from openinference_engine.step import Chunk, Step
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import RandomCheckpoint


@dataclass(frozen=True)
class SparseCheckpoint(RandomCheckpoint):
    """With experts and norms of heads where the config has some; layers in `dense` have no experts.

    The router's rows are far apart: rounding then changes no choice, which would be no small step.
    rounded_to: a packed format, whose values the matrices have.
    """

    dense: tuple[int, ...] = ()
    rounded_to: str = ""

    def array(self, name, rows=slice(None), columns=slice(None)):
        values = super().array(name)
        if name.endswith(".gate.weight"):
            values = (4 * _floats(values)).view(torch.int16).numpy().view(np.uint16)
        if self.rounded_to and name.endswith(("_proj.weight", "lm_head.weight")):
            is_head = "lm_head" in name
            packing = PACKINGS[head_format(self.rounded_to) if is_head else self.rounded_to]
            values = packing.dequantise(*packing.quantise(_floats(values))).numpy()
        return values[rows][..., columns]

    def _shapes(self):
        config, shapes = self.config, super()._shapes()
        for index in range(config.num_layers):
            layer = f"model.layers.{index}"
            if config.norms_heads:
                for name in ("q_norm", "k_norm"):
                    shapes[f"{layer}.self_attn.{name}.weight"] = (config.head_dim,)
            if config.experts is not None and index not in self.dense:
                shapes |= self._expert_shapes(f"{layer}.mlp")
                for name in ("gate_proj", "up_proj", "down_proj"):
                    del shapes[f"{layer}.mlp.{name}.weight"]
        return shapes

    def _expert_shapes(self, layer):
        hidden, experts = self.config.hidden_size, self.config.experts
        wide, tall = (experts.intermediate_size, hidden), (hidden, experts.intermediate_size)
        shapes = {f"{layer}.gate.weight": (experts.count, hidden)}
        for number in range(experts.count):
            expert = f"{layer}.experts.{number}"
            shapes |= {f"{expert}.{name}.weight": wide for name in ("gate_proj", "up_proj")}
            shapes[f"{expert}.down_proj.weight"] = tall
        return shapes


def _floats(bits):
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def cpu_engine(checkpoint):
    """(token ids) → (len, vocab): float32 logits behind every token, by the engine on a CPU."""
    config = checkpoint.config
    model = build_model(Weights(checkpoint, torch.float32), config, config.max_positions)

    def logits(token_ids):
        cache = KVCache(config, 8, 16)
        chunk = Chunk("0", token_ids, 0, list(range(8)), draw=None, targets=[0] * len(token_ids))
        return Runner(model, cache, 16).compute(Step([chunk]))[1]

    return logits
