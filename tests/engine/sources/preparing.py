"""A model prepared as `openinference model prepare` does it."""

from __future__ import annotations

from pathlib import Path

from openinference_engine.weights import prepare
from openinference_engine.weights.prepare import Prepared


def fetch(uri: str, folder: Path, **options: str) -> Prepared:
    return prepare.prepare(uri, folder, lambda *_: None, **options)
