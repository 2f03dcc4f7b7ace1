"""Loads the tokenizer that lies beside safetensors files: tokenizer.json and its companions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as Backend

from openinference_engine.errors import StartError
from openinference_engine.tokenizer.chat import ChatTemplate
from openinference_engine.tokenizer.tokenizer import Tokenizer


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """Raises StartError if tokenizer.json is missing, else what the package says of its damage."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise StartError(f"{folder} lacks tokenizer.json; save it beside the weights")
    backend = Backend.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    settings = _read_json(folder / "tokenizer_config.json")
    return Tokenizer(backend, _chat_template(folder, settings), _end_token_ids(folder))


def _chat_template(folder: Path, settings: dict[str, Any]) -> ChatTemplate | None:
    path = folder / "chat_template.jinja"
    source = path.read_text() if path.exists() else settings.get("chat_template")
    if not isinstance(source, str):
        return None
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return ChatTemplate(source, {name: _text(settings.get(name)) for name in names})


def _text(token: Any) -> str:
    """A special token is written as text, or as an object with its text in `content`."""
    return str(token["content"] if isinstance(token, dict) else token or "")


def _end_token_ids(folder: Path) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        if value is not None:
            return frozenset([value] if isinstance(value, int) else value)
    return frozenset()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise StartError(f"{path} is not JSON: {error}") from error
    return values
