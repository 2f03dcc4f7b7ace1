"""The SentencePiece tokenizer that GGUF calls `llama`: scored pieces, as Llama 2 and Mistral use.

The file holds each piece's score and no merges. A piece comes about by merging two others, the best
score first, so the merges are all ways to split a piece into two known ones, in that order.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

_BLANK = "\u2581"


def backend_of_pieces(metadata: dict[str, Any]) -> Backend:
    """Without special tokens, which the caller adds."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    model = models.BPE(
        vocabulary,
        _merges(vocabulary, scores),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Backend(model)
    replace = normalizers.Replace(" ", _BLANK)
    begins_with_blank = metadata.get("tokenizer.ggml.add_space_prefix", True)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_BLANK), replace] if begins_with_blank else [replace]
    )
    parts = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if begins_with_blank:
        parts.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(parts)
    return backend


def _merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Best score first; of one piece's splits, the one whose parts are the better known."""
    splits = [
        (-scores[token_id], vocabulary[token[:at]], vocabulary[token[at:]])
        for token, token_id in vocabulary.items()
        for at in range(1, len(token))
        if token[:at] in vocabulary and token[at:] in vocabulary
    ]
    names = list(vocabulary)
    return [(names[first], names[second]) for _, first, second in sorted(splits)]
