"""What the API process loads of a model: its tokenizer, its vocabulary and what identifies it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from openinference_engine.config import EngineConfig, ReasoningFormat
from openinference_engine.parsers.formats import (
    FORMATS,
    HERMES,
    CallFormat,
    CallFormatName,
    format_of,
)
from openinference_engine.parsers.reasoning import END
from openinference_engine.tokenizer.tokenizer import Tokenizer, load_tokenizer
from openinference_engine.version import NUMERICS_VERSION
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve


@dataclass(frozen=True, slots=True)
class Front:
    tokenizer: Tokenizer
    vocab_size: int
    fingerprint: str  # of weights, tokenizer, chat template and how answers are read
    longest_token: int  # characters; so many at most does one token stand for
    call_format: CallFormat = HERMES
    has_reasoning: bool = False

    def resume_key(self, engine: EngineConfig, kernel_path: str, max_model_len: int) -> str:
        """Hash of everything that the next token, or the end of the answer, depends on."""
        parts = (
            self.fingerprint,
            engine.dtype,
            f"kv-{engine.kv_cache_dtype}",
            kernel_path,
            f"numerics-{NUMERICS_VERSION}",
            f"context-{max_model_len}",
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def load_front(
    model_uri: str,
    tool_parser: CallFormatName | None = None,
    reasoning_parser: ReasoningFormat | None = None,
) -> Front:
    """How answers are read follows the chat template unless a parser is named.

    Raises StartError if the model is missing, damaged or has no tokenizer that we know."""
    path = resolve(model_uri)
    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint, path)
    digest = hashlib.sha256(checkpoint.fingerprint.encode())
    digest.update(tokenizer.fingerprint_text.encode())
    template = tokenizer.template.source if tokenizer.template else ""
    call_format = FORMATS[tool_parser] if tool_parser else format_of(template)
    thinks = END in template if reasoning_parser is None else reasoning_parser == "think"
    digest.update(f"{call_format.name} {thinks}".encode())
    return Front(
        tokenizer,
        checkpoint.config.vocab_size,
        digest.hexdigest(),
        longest_token=max(map(len, tokenizer.backend.get_vocab())),
        call_format=call_format,
        has_reasoning=thinks,
    )
