"""Builds the tokenizer that GGUF metadata describes: byte-level BPE, or SentencePiece (`pieces`).

GGUF names the splitting rule (`tokenizer.ggml.pre`) and leaves its definition to the reader; the
rules below are those of the models' own tokenizer.json files.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import PreTokenizer

from openinference_engine.errors import StartError
from openinference_engine.tokenizer.chat import ChatTemplate
from openinference_engine.tokenizer.pieces import backend_of_pieces
from openinference_engine.tokenizer.tokenizer import Tokenizer


class _TokenType(IntEnum):
    CONTROL = 3
    USER_DEFINED = 4


def tokenizer_from_metadata(metadata: dict[str, Any]) -> Tokenizer:
    """Raises StartError if the metadata names a tokenizer or splitting rule that is unknown."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    match metadata.get("tokenizer.ggml.model"):
        case "gpt2":
            backend, adds_bos = _byte_level_backend(metadata, tokens), False
        case "llama":
            backend, adds_bos = backend_of_pieces(metadata), True
        case kind:
            raise StartError(
                f"GGUF tokenizer {kind!r} is unknown; known are 'gpt2' (byte-level BPE) and "
                "'llama' (SentencePiece): use the safetensors files of this model"
            )
    types = metadata["tokenizer.ggml.token_type"]
    backend.add_special_tokens(_added_tokens(tokens, types, _TokenType.CONTROL))
    backend.add_tokens(_added_tokens(tokens, types, _TokenType.USER_DEFINED))
    if metadata.get("tokenizer.ggml.add_bos_token", adds_bos):
        _add_bos(backend, metadata, tokens)
    return Tokenizer(backend, _chat_template(metadata, tokens), _end_token_ids(metadata))


def _byte_level_backend(metadata: dict[str, Any], tokens: list[str]) -> Backend:
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    rule = metadata.get("tokenizer.ggml.pre", "default")
    backend = Backend(models.BPE(vocabulary, merges, ignore_merges=rule == "llama-bpe"))
    backend.pre_tokenizer = _pre_tokenizer(rule)
    backend.decoder = decoders.ByteLevel()
    return backend


# The pattern splits contractions, words, numbers of up to N digits, signs, and runs of blanks.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _pre_tokenizer(rule: str) -> PreTokenizer:
    match rule:
        case "default" | "gpt-2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        case "smollm":
            return pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
        case "llama-bpe":
            return _split_by(_WORDS % "{1,3}")
        case "qwen2":
            return _split_by(_WORDS % "")
        case _:
            raise StartError(
                f"GGUF tokenizer.ggml.pre {rule!r} is unknown; known are default, gpt-2, smollm, "
                "llama-bpe, qwen2"
            )


def _split_by(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _added_tokens(tokens: list[str], types: list[int], kind: _TokenType) -> list[AddedToken]:
    """Tokens that are matched whole in a text, before any splitting."""
    special = kind is _TokenType.CONTROL
    return [
        AddedToken(token, special=special, normalized=False)
        for token, token_type in zip(tokens, types, strict=True)
        if token_type == kind
    ]


def _add_bos(backend: Backend, metadata: dict[str, Any], tokens: list[str]) -> None:
    token_id = metadata["tokenizer.ggml.bos_token_id"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{tokens[token_id]} $A", special_tokens=[(tokens[token_id], token_id)]
    )


def _chat_template(metadata: dict[str, Any], tokens: list[str]) -> ChatTemplate | None:
    source = metadata.get("tokenizer.chat_template")
    if source is None:
        return None
    special_tokens = {
        f"{name}_token": tokens[metadata[key]]
        for name in ("bos", "eos")
        if (key := f"tokenizer.ggml.{name}_token_id") in metadata
    }
    return ChatTemplate(source, special_tokens)


def _end_token_ids(metadata: dict[str, Any]) -> frozenset[int]:
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return frozenset(metadata[key] for key in keys if key in metadata)
