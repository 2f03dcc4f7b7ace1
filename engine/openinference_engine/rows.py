"""The rows of a step: one token each, what is wanted behind it, and what may follow it."""

from __future__ import annotations

from dataclasses import dataclass

from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.rules import is_drawn_on_device
from openinference_engine.sampling import keeps_likeliest
from openinference_engine.step import Chunk, Draw


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a step; it draws when it is the last that its sequence has.

    target: a token whose log-probability is wanted behind this one, beside the `num_top` likeliest.
    """

    request_id: str
    token_id: int
    position: int
    block_ids: list[int]  # the request's own list, which grows
    draw: Draw | None
    target: int | None = None
    num_top: int = 0

    @property
    def is_awaited(self) -> bool:
        return self.draw is not None or self.target is not None

    @property
    def needs_logits(self) -> bool:
        """Whether the host draws its token, or rates its target."""
        if self.target is not None:
            return True
        return self.draw is not None and not is_drawn_on_device(self.draw)

    @property
    def draws_by_rule(self) -> bool:
        """Whether the device draws its token otherwise than as the likeliest one."""
        if self.draw is None or self.needs_logits:
            return False
        return not keeps_likeliest(self.draw.params)

    @property
    def num_rated(self) -> int | None:
        """Beside how many of the likeliest tokens the device rates its own; None: it does not."""
        if self.draw is None or self.needs_logits:
            return None
        return self.draw.params.num_logprobs

    def may_be_followed(self, num_positions: int) -> bool:
        """Whether the next step is likely to compute this row's successor, whose page is known."""
        if self.draw is None or self.needs_logits:
            return False
        has_page = (self.position + 1) // PAGE_TOKENS < len(self.block_ids)
        is_inside = self.position + 1 < num_positions
        return has_page and is_inside and self.draw.num_outputs + 1 < self.draw.params.max_tokens

    def follows(self, other: Row, token_id: int) -> bool:
        """Whether this is what `other` becomes by drawing `token_id`, and the device draws on."""
        return (
            self.block_ids is other.block_ids
            and self.position == other.position + 1
            and self.token_id == token_id
            and self.draw is not None
            and not self.needs_logits
        )


def rows_of(chunk: Chunk) -> list[Row]:
    last = len(chunk.token_ids) - 1
    return [
        Row(
            chunk.request_id,
            token_id,
            chunk.start + index,
            chunk.block_ids,
            chunk.draw if index == last else None,
            chunk.targets[index] if index < len(chunk.targets) else None,
            chunk.num_top,
        )
        for index, token_id in enumerate(chunk.token_ids)
    ]
