"""Grammars that answers follow: xgrammar compiles each once, a matcher goes along with a sequence.

A grammar arrives as one JSON document, a "structural tag" of xgrammar, that can say everything we
offer: JSON schemas, regular expressions, choices, EBNF, and calls of tools between other text.
Compiling goes on in a thread of its own while steps run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # imported with the first grammar: it takes a second and 60 MB
    import xgrammar

    from openinference_engine.tokenizer.tokenizer import Tokenizer

_CACHE_BYTES = 64 << 20
_PLACE_IN_SOURCE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")  # of xgrammar, of no use to a client


class Grammars:
    """Not thread-safe: the core's thread calls everything here."""

    def __init__(self, load_tokenizer: Callable[[], Tokenizer], vocab_size: int) -> None:
        self._load_tokenizer = load_tokenizer
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._pending: dict[int, Future[str | None]] = {}

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def compile_soon(self, number: int, grammar: str) -> None:
        self._pending[number] = self._thread.submit(self._error_of, grammar)

    def take_compiled(self) -> list[tuple[int, str | None]]:
        """What was compiled since the last call: its number and what is wrong with it, or None."""
        done = [number for number, future in self._pending.items() if future.done()]
        return [(number, self._pending.pop(number).result()) for number in done]

    def constraint(self, grammar: str, token_ids: Iterable[int]) -> GrammarConstraint | None:
        """Behind `token_ids`. The grammar is one that compiled (mostly it is cached) or empty."""
        if not grammar:
            return None
        from xgrammar import GrammarMatcher

        matcher = GrammarMatcher(self._compiler.compile_structural_tag(grammar))
        constraint = GrammarConstraint(matcher, self._vocab_size)
        for token_id in token_ids:
            constraint.accept(token_id)
        return constraint

    def _error_of(self, grammar: str) -> str | None:
        if not self._tokenizer.end_token_ids:
            return "this model has no token that ends an answer, so none can be held to a grammar"
        try:
            constraint = self.constraint(grammar, ())
        except UnicodeDecodeError as error:  # what xgrammar quotes ends within a character
            return _complaint(error.object.decode(errors="replace"))
        except Exception as error:  # whatever it is, it concerns this request alone
            return _complaint(str(error))
        if constraint is not None and constraint.allows_nothing:
            return "nothing can follow it"  # a rule that only leads back to itself
        return None

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._load_tokenizer()

    @cached_property
    def _compiler(self) -> xgrammar.GrammarCompiler:
        from xgrammar import GrammarCompiler, TokenizerInfo, VocabType

        vocabulary = [self._tokenizer.token_bytes(number) for number in range(self._vocab_size)]
        ends = sorted(self._tokenizer.end_token_ids)
        info = TokenizerInfo(vocabulary, VocabType.RAW, stop_token_ids=ends)
        return GrammarCompiler(info, max_threads=1, cache_limit_bytes=_CACHE_BYTES)


class GrammarConstraint:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: xgrammar.GrammarMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._mask = torch.empty(1, -(-vocab_size // 32), dtype=torch.int32)

    @property
    def allows_nothing(self) -> bool:
        """No token, and no end either."""
        return self._matcher.fill_next_token_bitmask(self._mask) and not bool(self._mask.any())

    def accept(self, token_id: int) -> None:
        """Goes on by one token; one that does not follow the grammar changes nothing."""
        self._matcher.accept_token(token_id)

    def restrict(self, logits: Tensor) -> Tensor:
        """logits: (vocab,) → the same with -inf where the grammar allows no token."""
        if self._matcher.is_terminated() or not self._matcher.fill_next_token_bitmask(self._mask):
            return logits
        return logits.masked_fill(~_unpack(self._mask[0], len(logits)), -torch.inf)


def _complaint(message: str) -> str:
    """Its first line, for a client."""
    first, *_ = message.strip().splitlines() or ["it cannot be compiled"]
    return _PLACE_IN_SOURCE.sub("", first)


def _unpack(mask: Tensor, size: int) -> Tensor:
    """(ceil(size / 32),) int32 → (size,) bool, the lowest bit first."""
    bits = torch.arange(32, dtype=torch.int32)
    return (mask[:, None] >> bits & 1).flatten()[:size].bool()
