"""What a remote model URI names: its files, and how to read ranges of them.

hf:// is listed by the hub's API and read over HTTP at one commit; s3://, gs:// and az:// go through
obstore, http(s):// through fsspec's own client. Credentials come from the environment, by the names
that each provider's tools use. Only safetensors, GGUF and what describes them is ever listed: no
pickle, no code. Nothing here writes.
"""

from __future__ import annotations

from openinference_engine.errors import StartError
from openinference_engine.weights.hub import open_hub
from openinference_engine.weights.source import Source
from openinference_engine.weights.stores import open_store
from openinference_engine.weights.web import open_http

REMOTE_SCHEMES = ("hf", "s3", "gs", "az", "http", "https")
_STORES = ("s3", "gs", "az")


def is_remote(uri: str) -> bool:
    """Whether a model has to be fetched before an engine can open it."""
    return uri.partition("://")[0] in REMOTE_SCHEMES


def open_source(uri: str, revision: str = "") -> Source:
    """Lists what a remote URI names. Raises StartError, which says what to do."""
    scheme, _, rest = uri.partition("://")
    if revision and scheme != "hf":
        raise StartError(f"revision {revision!r} is for hf:// only; {uri} has no revisions")
    try:
        if scheme == "hf":
            return open_hub(rest, revision)
        if scheme in _STORES:
            return open_store(scheme, rest)
        return open_http(uri)
    except ImportError as error:
        raise StartError(
            f"{scheme}:// needs {error.name}; install openinferencev2[sources]"
        ) from error
    except FileNotFoundError as error:
        raise StartError(f"{uri} does not exist; correct model.uri") from error
