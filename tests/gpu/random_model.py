"""A small Llama with seeded weights, as a checkpoint holds it and as transformers computes it."""

from dataclasses import dataclass

import msgspec
import numpy as np
import torch
import transformers
from openinference_engine.config import ModelConfig
from openinference_engine.llama_weights import head_format
from openinference_engine.packings import PACKINGS
from openinference_engine.weights.loader import Weights

CONFIG = ModelConfig(
    architecture="llama", vocab_size=99, hidden_size=192, intermediate_size=160, num_layers=2,
    num_heads=3, num_kv_heads=1, head_dim=64, max_positions=128, rms_norm_epsilon=1e-5,
    rope_theta=10000.0,  # also what transformers assumes
)  # fmt: skip


def changed(**fields):
    return msgspec.structs.replace(CONFIG, **fields)


@dataclass(frozen=True)
class RandomCheckpoint:
    """Seeded weights of a config's shape, as a checkpoint holds them; `spoilt` is all NaN."""

    config: ModelConfig
    spoilt: str = ""
    fingerprint: str = "random"

    def names(self):
        return frozenset(self._shapes())

    def array(self, name, rows=slice(None), columns=slice(None)):
        shape = self._shapes()[name]
        seed = sum(map(ord, name))
        values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        values = values * shape[-1] ** -0.5 if len(shape) == 2 else 1 + 0.1 * values
        if name == self.spoilt:
            values.fill_(np.nan)
        values = values[rows][..., columns]
        return values.bfloat16().view(torch.int16).numpy().view(np.uint16)

    def _shapes(self):
        c = self.config
        query, key = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        layer = {
            "input_layernorm": (c.hidden_size,),
            "self_attn.q_proj": (query, c.hidden_size),
            "self_attn.k_proj": (key, c.hidden_size),
            "self_attn.v_proj": (key, c.hidden_size),
            "self_attn.o_proj": (c.hidden_size, query),
            "post_attention_layernorm": (c.hidden_size,),
            "mlp.gate_proj": (c.intermediate_size, c.hidden_size),
            "mlp.up_proj": (c.intermediate_size, c.hidden_size),
            "mlp.down_proj": (c.hidden_size, c.intermediate_size),
        }
        table = (c.vocab_size, c.hidden_size)
        shapes = {"model.embed_tokens": table, "model.norm": (c.hidden_size,), "lm_head": table}
        for index in range(c.num_layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        return {f"{name}.weight": shape for name, shape in shapes.items()}


def build_oracle(config, weight_format="bfloat16"):
    """(token ids) → (len, vocab): float32 logits behind every token, by transformers."""
    shape = transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, head_dim=config.head_dim,
        intermediate_size=config.intermediate_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.rms_norm_epsilon, max_position_embeddings=config.max_positions,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape).float().eval()
    source = Weights(RandomCheckpoint(config), torch.bfloat16)
    state = model.state_dict()
    for name, parameter in state.items():
        value = source.tensor(name, tuple(parameter.shape)).float()
        if weight_format in PACKINGS and name.endswith(("_proj.weight", "lm_head.weight")):
            is_head = "lm_head" in name
            packing = PACKINGS[head_format(weight_format) if is_head else weight_format]
            value = packing.dequantise(*packing.quantise(value))
        parameter.copy_(value)

    @torch.inference_mode()
    def logits(token_ids):
        return model(torch.tensor([token_ids])).logits[0]

    return logits
