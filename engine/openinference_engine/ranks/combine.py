"""What the ranks of a team made of the tokens of a step, summed by token.

Each has computed some of a token's terms, and all want all sums. Of few tokens every rank gets
every term, in one exchange. Of many, each gets the terms of its part of the tokens (all to all),
and then the others' sums: two exchanges that carry less. Both add a token's terms one by one, in
their order, as one rank would: they give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.ranks.layout import share
from openinference_engine.ranks.team import Team

MANY_TOKENS = 32  # from there on, by benchmarks.exchanges


def combine(team: Team, terms: Tensor, owners: Tensor) -> Tensor:
    """owners: (T, C), the rank that has each of a token's C terms → (T, hidden), the sums.

    terms: (N, hidden), those of this rank, by tokens and then by places.
    """
    if len(owners) < MANY_TOKENS:
        counts = owners.flatten().bincount(minlength=team.size)
        return _sum(team.gather_rows(terms, counts.tolist()), owners)
    parts = [share(len(owners), team.size, rank) for rank in range(team.size)]
    to_send = [int((owners[part] == team.index).sum()) for part in parts]
    own = owners[parts[team.index]]
    to_receive = own.flatten().bincount(minlength=team.size)
    sums = _sum(team.exchange_rows(terms, to_send, to_receive.tolist()), own)
    return team.gather_rows(sums, [part.stop - part.start for part in parts])


def _sum(terms: Tensor, owners: Tensor) -> Tensor:
    """terms: (T · C, hidden), one rank's after another's → (T, hidden)."""
    places = owners.flatten().argsort(stable=True)
    placed = torch.empty_like(terms)
    placed[places] = terms
    first, *others = placed.view(*owners.shape, terms.shape[1]).unbind(dim=1)
    for other in others:
        first += other
    return first
