"""The Llama family as a queue of CUDA kernels: rows in, one token and its logits per row out.

A row is one token of one sequence: its id, its position and its sequence's pages. Decoding gives
each sequence one row; a prompt is several rows of one sequence, whose keys are all in the cache
before any of them attends. All buffers are allocated once and sliced, so a captured graph and an
eager call touch the same memory. Which row belongs to which request is not known here.

Per layer five kernels (csrc/ops.h): qkv, attention, output, gate-up, down. One more makes codes of
keys and values where the cache holds codes, one norms heads where the model does, and a layer of
experts has four kernels instead of the last two (`mixture`). Every norm is a scalar in the reader's
epilogue; its weight is applied where the hidden state is written.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.cuda_kv_cache import KVCache, NewHeads
from openinference_engine.decode_buffers import MAX_ROWS, allocate
from openinference_engine.inputs import RowInputs
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.mixture import Mixture
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.row_attention import RowAttention

FEW_ROWS = 16  # kFewTokens of csrc/cuda/skinny_gemm.cuh


class Decoder:
    """One method per kernel, named as in csrc/ops.h, and `queue`, which calls them in order.

    `rows` is how many of the inputs' rows take part; `stream` is a Stream of the kernels' module.
    """

    def __init__(
        self,
        kernels: ModuleType,
        weights: LlamaWeights,
        config: ModelConfig,
        cache: KVCache,
        pages_per_sequence: int,
        is_deterministic: bool = False,
        logits: Tensor | None = None,
    ) -> None:
        """Allocates the buffers of MAX_ROWS rows on the device of the weights.

        `kernels`: their module, or what stands for it on a rank of a team (ranks/team_kernels.py).
        `is_deterministic`: a row gets the same bits whichever rows are beside it.
        `logits`: (MAX_ROWS, vocab) float32, where others write them too.
        """
        # Up to so many rows a product is one kernel, which adds up a row in one order.
        self.most_rows: int = FEW_ROWS if is_deterministic else MAX_ROWS
        self.config = config
        device, num_positions = weights.embedding.device, pages_per_sequence * PAGE_TOKENS
        self.inputs = RowInputs(MAX_ROWS, pages_per_sequence, num_positions, device)
        self._kernels = kernels
        self._weights = weights
        self._cache = cache
        self._new_heads = NewHeads(config, cache, MAX_ROWS)
        multiprocessors: int = kernels.multiprocessor_count()
        self.attention = RowAttention(kernels, config, device, multiprocessors, is_deterministic)
        is_end = len(weights.embedding) or len(weights.head)  # else the middle of a pipeline
        vocabulary = config.vocab_size if is_end else 0
        self._buffers = allocate(config, vocabulary, multiprocessors, device, logits)
        self._norms_after = weights.norms_after
        self.mixture: Mixture | None = None
        if config.experts is not None:
            self.mixture = Mixture(config.experts, MAX_ROWS, device)

    @property
    def num_positions(self) -> int:
        """How many positions a sequence can have: what the rotary table and the pages hold."""
        pages_per_sequence = self.inputs.pages.shape[1]
        return min(len(self._weights.rotary), pages_per_sequence * PAGE_TOKENS)

    def logits(self, rows: int) -> Tensor:
        """(rows, vocab) float32: a view of what the last `queue` of as many rows wrote; no logits
        any more where a row has drawn by its rule, unless tokens were rated."""
        return self._buffers.logits[:rows]

    @property
    def ratings(self) -> Tensor:
        """(MAX_ROWS, RATING_WORDS) int32, which `ratings.unpack` reads: of the rated tokens."""
        return self._buffers.ratings

    def queue(self, rows: int, stream: Any, draws: bool = False, rates: bool = False) -> None:
        """Queues one step over the first `rows` of the inputs. It replaces each row's token by the
        next one and moves its position on, so queueing again decodes one token further.

        `draws`: the next token is the one that the row's rule draws, else the likeliest one.
        `rates`: `ratings` say how likely it was, where the row's rule asks for that.
        """
        self.embed(rows, stream)
        for layer in range(self.config.num_layers):
            self.project_qkv(layer, rows, stream)
            self.attend(layer, rows, stream)
            self.project_output(layer, rows, stream)
            self.feed_forward(layer, rows, stream)
        self._queue_choice(rows, stream, draws, rates)

    def queue_head(
        self, x: Tensor, sum_squares: Tensor, stream: Any, draws: bool, rates: bool
    ) -> None:
        """What `queue` ends with, alone, over up to MAX_ROWS last states of `prefill`."""
        rows = len(x)
        self._buffers.x[:rows] = x
        self._buffers.sum_squares[:rows] = sum_squares
        self._queue_choice(rows, stream, draws, rates)

    def embed(self, rows: int, stream: Any) -> None:
        first_norm = self._weights.layers[0].attention_norm
        tokens, table = self.inputs.tokens[:rows], self._weights.embedding
        self._kernels.embed(tokens, table, first_norm, *self._state(rows), stream)

    def project_qkv(self, layer: int, rows: int, stream: Any) -> None:
        self._new_heads.queue(
            self._kernels,
            self._weights.layers[layer],
            self._normed(rows),
            self._weights.rotary,
            self._places(rows),
            self._buffers.query[:rows],
            self._cache.layer(layer),
            stream,
        )

    def attend(self, layer: int, rows: int, stream: Any) -> None:
        query, out = self._buffers.query[:rows], self._buffers.attended[:rows]
        cache, places = self._cache.layer(layer), self._places(rows)
        self.attention.queue(layer, query, cache, places, out, stream)

    def project_output(self, layer: int, rows: int, stream: Any) -> None:
        weights = self._weights.layers[layer]
        attended = self._buffers.attended[:rows].flatten(1)
        state = self._state(rows)
        self._kernels.project_residual(attended, weights.output, weights.mlp_norm, *state, stream)

    def feed_forward(self, layer: int, rows: int, stream: Any) -> None:
        if self.mixture is None or self._weights.layers[layer].router is None:
            self.project_gate_up(layer, rows, stream)
            self.project_down(layer, rows, stream)
            return
        for op in self.expert_ops(self.mixture, layer, rows).values():
            op(stream)

    def expert_ops(
        self, mixture: Mixture, layer: int, rows: int
    ) -> dict[str, Callable[[Any], None]]:
        """`Mixture.ops` of a layer that has experts."""
        return mixture.ops(
            self._kernels,
            self._weights.layers[layer],
            self._norms_after[layer],
            self.inputs.positions[:rows],
            self._state(rows),
            self.config.rms_norm_epsilon,
        )

    def project_gate_up(self, layer: int, rows: int, stream: Any) -> None:
        matrix, out = self._weights.layers[layer].gate_up, self._buffers.activations[:rows]
        self._kernels.project_gate_up(*self._normed(rows), matrix, out, stream)

    def project_down(self, layer: int, rows: int, stream: Any) -> None:
        matrix, norm = self._weights.layers[layer].down, self._norms_after[layer]
        activations = self._buffers.activations[:rows]
        self._kernels.project_residual(activations, matrix, norm, *self._state(rows), stream)

    def choose_token(self, rows: int, stream: Any) -> None:
        self._kernels.choose_token(
            *self._normed(rows),
            self._weights.head,
            self.logits(rows),
            self.inputs.tokens[:rows],
            self.inputs.positions[:rows],
            self._buffers.best,
            self._buffers.counter,
            stream,
        )

    def draw_token(self, logits: Tensor, stream: Any) -> None:
        """logits: (rows, vocab), which are used up."""
        inputs, rows = self.inputs, len(logits)
        self._kernels.draw_token(
            logits,
            inputs.tokens[:rows],
            inputs.positions[:rows],
            inputs.rules[:rows],
            inputs.biases[:rows],
            inputs.history[:rows],
            self._buffers.token_counts[:rows],
            stream,
        )

    def rate_token(self, rows: int, stream: Any) -> None:
        inputs = self.inputs
        self._kernels.rate_token(
            self.logits(rows),
            inputs.tokens[:rows],
            inputs.positions[:rows],
            inputs.rules[:rows],
            self.ratings[:rows],
            stream,
        )

    def _queue_choice(self, rows: int, stream: Any, draws: bool, rates: bool) -> None:
        self.choose_token(rows, stream)
        self._queue_draws(rows, stream, draws, rates)

    def _queue_draws(self, rows: int, stream: Any, draws: bool, rates: bool) -> None:
        if draws:
            logits = self.logits(rows)
            self.draw_token(self._buffers.used_up[:rows].copy_(logits) if rates else logits, stream)
        if rates:
            self.rate_token(rows, stream)

    def _state(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        buffers = self._buffers
        return buffers.hidden[:rows], buffers.x[:rows], buffers.sum_squares[:rows]

    def _normed(self, rows: int) -> tuple[Tensor, Tensor, float]:
        _, x, sum_squares = self._state(rows)
        return x, sum_squares, self.config.rms_norm_epsilon

    def _places(self, rows: int) -> tuple[Tensor, Tensor]:
        return self.inputs.positions[:rows], self.inputs.pages[:rows]
