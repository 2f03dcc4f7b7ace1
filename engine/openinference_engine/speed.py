"""Measured speeds, and the token budget that follows from them. Pure arithmetic on seconds.

Recent steps count more: totals of tokens and seconds fade by a tenth with each step, so that a
tiny prefill, which says little about throughput, also weighs little.
"""

from __future__ import annotations

_FADE = 0.9


class SpeedMeter:
    def __init__(self) -> None:
        self._prefill = _Rate()
        self._decode = _Rate()

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second; 0 until measured."""
        return self._prefill.per_second

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens drawn per second by the whole engine; 0 until measured."""
        return self._decode.per_second

    def observe(self, num_tokens: int, num_decodes: int, seconds: float) -> None:
        """Takes one step. A mixed step counts as prefill: its decodes ride along."""
        rate = self._decode if num_tokens == num_decodes else self._prefill
        rate.add(num_tokens, seconds)

    def predict_seconds(self, num_tokens: int, num_decodes: int) -> float:
        """How long a step will take; 0 if nothing like it was measured."""
        rate = self._decode if num_tokens == num_decodes else self._prefill
        return num_tokens / rate.per_second if rate.per_second else 0.0

    def token_budget(self, step_seconds: float, lowest: int, highest: int) -> int:
        """Tokens that fit into `step_seconds`; the lowest before anything is measured."""
        fitting = int(self.prefill_tokens_per_second * step_seconds)
        return max(lowest, min(fitting, highest))


class _Rate:
    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def per_second(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, num_tokens: int, seconds: float) -> None:
        self._tokens = self._tokens * _FADE + num_tokens
        self._seconds = self._seconds * _FADE + seconds
