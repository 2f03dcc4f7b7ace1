"""The kernels as a rank of a team calls them: its part of every matrix in, everybody's result out.

A stand-in for the kernels' module: the same ops and arguments. Four of them end in an exchange
with the other ranks (csrc/cuda/team.cuh); all others work on what this rank has.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from openinference_engine.decoder import FEW_ROWS
from openinference_engine.ranks.layout import vocabulary_of
from openinference_engine.ranks.team import Team

PATIENCE_NANOSECONDS = 10_000_000_000  # for a peer's word; the watch ends a lost group before
MANY_ELEMENTS = 1 << 18  # of a product; by benchmarks.gpu_exchanges


@dataclass(frozen=True, slots=True)
class TeamMemory:
    """What the ranks of a team write to each other, as one of them sees it.

    inboxes, logits: addresses, its own first, then the peers' that it can write to: all or none.
    whole_logits: (rows, vocabulary) float32, its own. words: of one of its two inboxes.
    state: two int32, exchanges ended and whether the team is lost. peers_aborted: addresses of the
    peers' second one, in their order. parts: addresses by rank of what each has made of many rows,
    (2, part_elements) bf16, which it can read.
    """

    inboxes: list[int]
    logits: list[int]
    whole_logits: Tensor
    words: int
    state: Tensor
    peers_aborted: list[int]
    parts: list[int]
    part_elements: int


class Gatherer(Protocol):
    """Brings what ranks wrote into their own memory to the others, where they cannot do so."""

    def gather_words(self, num_words: int) -> None:
        """Each rank's part of the inbox, of so many words."""

    def gather_parts(self, num_elements: int) -> None:
        """Each rank's part of a product of many rows, of so many elements."""

    def gather_logits(self, part: Tensor) -> None:
        """part: (rows, this rank's share of the vocabulary) → the whole logits."""


class TeamKernels:
    """Of one rank. The exchanges of a step are numbered in the order in which they are queued."""

    def __init__(
        self,
        kernels: ModuleType,
        team: Team,
        memory: TeamMemory,
        gatherer: Gatherer | None = None,
        many_elements: int = MANY_ELEMENTS,
    ) -> None:
        """many_elements: of a product, from which on peers read it instead of being sent it, unless
        its rows are so few that the bits of each are the same at any number.
        """
        self._kernels, self._gatherer, self._many_elements = kernels, gatherer, many_elements
        self._team = kernels.Team(
            rank=team.index,
            ranks=team.size,
            inboxes=memory.inboxes,
            logits=memory.logits,
            words=memory.words,
            ended=memory.state[:1].data_ptr(),
            aborted=memory.state[1:].data_ptr(),
            patience_nanoseconds=PATIENCE_NANOSECONDS,
            peers_aborted=memory.peers_aborted,
            parts=memory.parts,
            part_elements=memory.part_elements,
        )
        rows, self._vocabulary = memory.whole_logits.shape
        device = memory.whole_logits.device
        self._share = vocabulary_of(self._vocabulary, team.size, team.index)
        self._logits = torch.zeros(rows * (self._share.stop - self._share.start), device=device)
        self._tokens, self._positions, self._counters = torch.zeros(
            3, rows, dtype=torch.int32, device=device
        )
        self._num_exchanges = 0  # of the step that is being queued

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def project_residual(
        self,
        input: Tensor,
        weights: Tensor,
        norm_weight: Tensor,
        hidden: Tensor,
        x: Tensor,
        sum_squares: Tensor,
        stream: Any,
    ) -> None:
        """input, weights: this rank's columns."""
        exchange, state = self._next_exchange(), (hidden, x, sum_squares)
        if len(hidden) > FEW_ROWS and hidden.numel() >= self._many_elements:
            self._read_parts(input, weights, exchange, norm_weight, state, stream)
            return
        self._kernels.push_partial(input, weights, self._team, exchange, stream)
        self._add_partials(exchange, norm_weight, state, stream)

    def expert_sum(
        self,
        input: Tensor,
        weights: Tensor,
        visits: Tensor,
        shares: Tensor,
        places: Tensor,
        norm_weight: Tensor,
        hidden: Tensor,
        x: Tensor,
        sum_squares: Tensor,
        stream: Any,
    ) -> None:
        """weights: of this rank's experts, or its inner columns of all."""
        exchange = self._next_exchange()
        routed = visits, shares, places
        self._kernels.push_expert_sum(input, weights, *routed, self._team, exchange, stream)
        self._add_partials(exchange, norm_weight, (hidden, x, sum_squares), stream)

    def add_experts(
        self,
        results: Tensor,
        shares: Tensor,
        places: Tensor,
        norm_weight: Tensor,
        hidden: Tensor,
        x: Tensor,
        sum_squares: Tensor,
        stream: Any,
    ) -> None:
        """results: of this rank's experts, or of its inner columns of all."""
        exchange = self._next_exchange()
        self._kernels.push_experts(results, shares, places, self._team, exchange, stream)
        self._add_partials(exchange, norm_weight, (hidden, x, sum_squares), stream)

    def choose_token(
        self,
        x: Tensor,
        sum_squares: Tensor,
        epsilon: float,
        weights: Tensor,
        logits: Tensor,
        tokens: Tensor,
        positions: Tensor,
        best: Tensor,
        counter: Tensor,
        stream: Any,
    ) -> None:
        """weights: this rank's rows; logits: the whole ones, in the team's memory. Ends a step."""
        rows, width = len(x), self._share.stop - self._share.start
        part = self._logits[: rows * width].view(rows, width)
        chosen, places = self._tokens[:rows], self._positions[:rows]
        places.zero_()  # a part without any number says nothing of the whole row
        self._kernels.choose_token(
            x, sum_squares, epsilon, weights, part, chosen, places, best, counter, stream
        )
        exchange = self._next_exchange()
        self._kernels.push_choice(
            part, self._share.start, self._vocabulary, chosen, self._team, exchange,
            self._counters, stream,
        )  # fmt: skip
        if self._gatherer is not None:
            self._gatherer.gather_logits(part)
            self._gatherer.gather_words(2 * rows)
        self._kernels.take_choice(self._team, exchange, tokens, positions, stream)
        self.end_step(stream)

    def end_step(self, stream: Any) -> None:
        """What is queued next begins a step, in a graph of its own maybe."""
        self._kernels.end_exchanges(self._team, self._num_exchanges, stream)
        self._num_exchanges = 0

    def _read_parts(
        self,
        input: Tensor,
        weights: Tensor,
        exchange: int,
        norm_weight: Tensor,
        state: tuple[Tensor, Tensor, Tensor],
        stream: Any,
    ) -> None:
        """state: hidden, x and sum_squares."""
        self._kernels.store_part(input, weights, self._team, exchange, stream)
        if self._gatherer is not None:
            self._gatherer.gather_parts(state[0].numel())
            self._gatherer.gather_words(1)
        self._kernels.add_parts(self._team, exchange, norm_weight, *state, stream)

    def _add_partials(
        self, exchange: int, norm_weight: Tensor, state: tuple[Tensor, Tensor, Tensor], stream: Any
    ) -> None:
        """state: hidden, x and sum_squares."""
        if self._gatherer is not None:
            self._gatherer.gather_words(state[0].numel() // 2)
        self._kernels.add_partials(self._team, exchange, norm_weight, *state, stream)

    def _next_exchange(self) -> int:
        self._num_exchanges += 1
        return self._num_exchanges - 1
