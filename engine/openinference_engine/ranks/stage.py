"""What every rank does with a step: its layers, between what it is sent and what it sends on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from openinference_engine.batch import Batch
from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.kv_formats import CPU_FORMATS
from openinference_engine.layers.attention import KVCache
from openinference_engine.models.registry import Model, build_model
from openinference_engine.ranks.layout import rank_at, share
from openinference_engine.ranks.messages import StepMessage, ToRank
from openinference_engine.ranks.rendezvous import Verdict
from openinference_engine.ranks.team import Post, Ranks
from openinference_engine.runner import TORCH_DTYPES
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.loader import Weights

Outcome = tuple[Tensor, Tensor]  # states (S, hidden), logits (S, vocab) of a batch's `logit_rows`


class Stage:
    """A rank's part of the model and of the cache."""

    def __init__(
        self, model: Model, cache: KVCache, config: ModelConfig, ranks: Ranks, post: Post
    ) -> None:
        self._model, self._cache, self._config = model, cache, config
        self._ranks, self._post = ranks, post

    def take(self, message: ToRank) -> None:
        """Another rank than 0: computes a step that it is sent."""
        if isinstance(message, StepMessage):
            self.compute(message.batch(), message.wants_states)

    def abort(self) -> None:
        """Nothing: the end of the process ends what gloo waits for."""

    @torch.inference_mode()
    def compute(self, batch: Batch, wants_states: bool) -> Outcome | None:
        """Passes the result on. Rank 0, if its stage is the last: returns its own part of it."""
        ranks = self._ranks
        hidden = self._model.layers(self._enter(batch), batch, self._cache)
        if not ranks.is_last_stage:
            self._post.send(hidden, self._neighbour(1))
            return None
        if not len(batch.logit_rows):
            return None
        states = self._model.states(hidden, batch)
        logits = self._model.logits(states)
        if ranks.rank == 0:
            return states, logits
        if ranks.place.expert == 0:
            self._post.send(logits, 0)
            if wants_states and ranks.place.tensor == 0:
                self._post.send(states, 0)
        return None

    @torch.inference_mode()
    def collect(self, batch: Batch, wants_states: bool, own: Outcome | None) -> Outcome:
        """Rank 0: the whole rows of a step that every stage has computed, or soon will have."""
        rows, hidden = len(batch.logit_rows), self._config.hidden_size
        if not rows:
            return torch.empty(0, hidden), torch.empty(0, self._config.vocab_size)
        config, post = self._ranks.config, self._post
        parts = [] if own is None else [own[1]]
        states = torch.empty(rows, 0) if own is None else own[0]
        for index in range(len(parts), config.tensor):
            tokens = share(self._config.vocab_size, config.tensor, index)
            sender = rank_at(config.pipeline - 1, 0, index, config)
            parts.append(post.receive((rows, tokens.stop - tokens.start), sender))
            if wants_states and own is None and index == 0:
                states = post.receive((rows, hidden), sender)
        return states, torch.cat(parts, dim=1)

    def _enter(self, batch: Batch) -> Tensor:
        if self._ranks.is_first_stage:
            return self._model.embed(batch)
        shape = (len(batch.token_ids), self._config.hidden_size)
        return self._post.receive(shape, self._neighbour(-1))

    def _neighbour(self, step: int) -> int:
        place = self._ranks.place
        return rank_at(place.stage + step, place.expert, place.tensor, self._ranks.config)


def load_stage(
    checkpoint: Checkpoint,
    config: EngineConfig,
    ranks: Ranks,
    post: Post,
    verdict: Verdict,
) -> Stage:
    """Reads this rank's part of the model. Raises StartError if a tensor is missing."""
    weights = Weights(checkpoint, TORCH_DTYPES[config.dtype], keeps_format=config.dtype == "auto")
    model_config = checkpoint.config
    model = build_model(replace(weights, ranks=ranks), model_config, verdict.max_model_len)
    cache_format = CPU_FORMATS[config.kv_cache_dtype]
    cache = KVCache(model_config, verdict.num_cache_blocks, config.block_size, cache_format, ranks)
    return Stage(model, cache, model_config, ranks, post)
