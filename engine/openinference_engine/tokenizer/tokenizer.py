"""A model's tokenizer: text → ids, ids → text piece by piece, messages → prompt.

Wraps a `tokenizers.Tokenizer` built from the checkpoint's own files. Not thread-safe only in
`Detokenizer`, which belongs to one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from openinference_engine.errors import StartError
from openinference_engine.tokenizer.chat import ChatOptions, ChatTemplate
from openinference_engine.tokenizer.plain_tools import in_plain_messages
from openinference_engine.tokenizer.spelling import Spelling
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint

_NO_OPTIONS = ChatOptions()


@dataclass(frozen=True)
class Tokenizer:
    backend: Backend
    template: ChatTemplate | None
    end_token_ids: frozenset[int]  # each ends an answer

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> list[int]:
        """Ids of a prompt, with the special tokens that the model wants around it."""
        return list(self.backend.encode(text, add_special_tokens=adds_special_tokens).ids)

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], options: ChatOptions = _NO_OPTIONS
    ) -> list[int]:
        """Ids of a conversation, up to where the assistant speaks. Raises RequestError."""
        if self.template is None or not self.template.knows_tools:
            messages = in_plain_messages(messages, options.tools)
        if self.template is None:
            return self.encode("\n".join(str(message["content"]) for message in messages))
        text = self.template.render(messages, options)
        return self.encode(text, adds_special_tokens=False)

    def decode(self, token_ids: Sequence[int], *, skips_special_tokens: bool = True) -> str:
        return self.backend.decode(list(token_ids), skip_special_tokens=skips_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for; it may be a part of a character."""
        return self._spelling.bytes_of(token_id)

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Those that no text shows unless it is asked to."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self.backend)

    @property
    def fingerprint_text(self) -> str:
        """Everything that encoding and templates depend on."""
        return self.backend.to_str() + (self.template.source if self.template else "")


class Detokenizer:
    """Turns ids into text one at a time; a character cut between tokens waits for its rest.

    Text is decoded from the last place where it was whole, because a token's text may depend on
    the one before (a leading space) but not on those further back.
    """

    _CUT = "\ufffd"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skips_special_tokens: bool = True,
        context: Sequence[int] = (),
    ) -> None:
        """`context`: ids of the text that this one goes on with; without it, a new text begins."""
        self._tokenizer = tokenizer
        self._skips_special_tokens = skips_special_tokens
        self._shown = list(context)  # ids whose text was given out last: context of the next
        self._held: list[int] = []
        if self._decode(self._shown).endswith(self._CUT):
            self._shown = []  # nobody was given the character that it begins

    def feed(self, token_id: int) -> str:
        self._held.append(token_id)
        text = self._new_text()
        if text.endswith(self._CUT):
            return ""
        if text:
            self._shown, self._held = self._held, []
        return text

    def flush(self) -> str:
        """The rest, with a replacement sign where a character never became whole."""
        text = self._new_text()
        self._held = []
        return text

    def _new_text(self) -> str:
        before = self._decode(self._shown)
        return self._decode(self._shown + self._held)[len(before) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skips_special_tokens=self._skips_special_tokens)


def load_tokenizer(checkpoint: Checkpoint, path: Path) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises StartError if it has none that we can build."""
    try:
        tokenizer = _build_tokenizer(checkpoint, path)
    except StartError:
        raise
    except Exception as error:  # whatever the package and its input may raise
        reason = " ".join(str(error).split())
        raise StartError(f"{path}: its tokenizer is damaged: {reason}; fetch it again") from error
    _check_vocabulary(tokenizer, checkpoint.config.vocab_size, path)
    return tokenizer


def _build_tokenizer(checkpoint: Checkpoint, path: Path) -> Tokenizer:
    if isinstance(checkpoint, GGUFCheckpoint):
        from openinference_engine.tokenizer.gguf_tokenizer import tokenizer_from_metadata

        return tokenizer_from_metadata(checkpoint.file.metadata)
    from openinference_engine.tokenizer.tokenizer_files import tokenizer_from_folder

    return tokenizer_from_folder(path)


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int, path: Path) -> None:
    """A model may have more rows than tokens (they are padded), never the other way round."""
    largest = max(tokenizer.backend.get_vocab().values(), default=-1)
    largest = max(largest, *tokenizer.end_token_ids, -1)
    if not 0 <= largest < vocab_size:
        raise StartError(
            f"{path}: the tokenizer has a token {largest} and the model {vocab_size} of them; "
            "use the tokenizer that belongs to these weights"
        )
