"""The bytes that a token stands for, whatever way its vocabulary spells them.

A tokenizer decodes ids to text, where a part of a character is lost; log-probabilities and grammars
need the bytes of one token alone.
"""

from __future__ import annotations

import re

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's byte fallback
_BLANK = "\u2581"  # how SentencePiece writes a space


class Spelling:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        decoder = backend.decoder
        self._is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        added = backend.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}

    def bytes_of(self, token_id: int) -> bytes:
        """Empty for an id that the vocabulary does not name (padding of the embedding)."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._is_byte_level:
            return bytes(_BYTE_OF[sign] for sign in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(match[1])
        return token.replace(_BLANK, " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for signs from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    signs = {chr(0x100 + number): byte for number, byte in enumerate(others)}
    return signs | {chr(byte): byte for byte in printable}


_BYTE_OF = _byte_level_alphabet()
