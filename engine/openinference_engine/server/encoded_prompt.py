"""A prompt as the model reads it, and what the core says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from openinference_engine.results import TokenLogprobs
from openinference_engine.server.logprobs import name_tokens
from openinference_engine.server.piece import RatedToken
from openinference_engine.tokenizer.tokenizer import Tokenizer


@dataclass(slots=True, eq=False)
class EncodedPrompt:
    token_ids: list[int]
    tokenizer: Tokenizer
    is_resumed: bool = False  # some answer to it began on another replica, which counted it
    is_read: bool = False  # an answer to it has a token from this engine
    num_cached_tokens: int = 0  # that this engine found in its cache, where an answer began here
    rated: list[RatedToken] = field(default_factory=list)  # the tokens behind the first

    @property
    def text(self) -> str:
        return self.tokenizer.decode(self.token_ids)

    @property
    def start(self) -> bytes:
        """Its first token, which nothing rates."""
        return self.tokenizer.token_bytes(self.token_ids[0])

    def rate(self, logprobs: list[TokenLogprobs]) -> None:
        """`logprobs`: of each token but the first."""
        offset = -self._num_stripped
        for before, token_id, rated in zip(
            self.token_ids[:-1], self.token_ids[1:], logprobs, strict=True
        ):
            offset += self._num_characters(before)
            self.rated.append(name_tokens(self.tokenizer, token_id, rated, max(offset, 0)))

    @property
    def _num_stripped(self) -> int:
        """Of the characters that its first tokens spell, those that its text does not begin with:
        a SentencePiece decoder strips one blank.
        """
        shown = (token_id for token_id in self.token_ids if self._num_characters(token_id))
        spelt = self.tokenizer.token_bytes(next(shown, self.token_ids[0]))
        return int(spelt.startswith(b" ") and not self.text.startswith(" "))

    def _num_characters(self, token_id: int) -> int:
        """Of the text, those that begin with this token; special ones are not shown."""
        is_shown = token_id not in self.tokenizer.special_token_ids
        return is_shown * sum(byte & 0xC0 != 0x80 for byte in self.tokenizer.token_bytes(token_id))
