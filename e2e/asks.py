"""What to ask: greedy requests with known prompts, so that the answer is a function of the ask.

Short ones measure, long streams are there to be open when something happens.
"""

import itertools
import random
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Api = Literal["chat/completions", "completions"]

APIS: tuple[Api, ...] = ("chat/completions", "completions")
PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "What is two plus two?",
    "Tell me a short story about a fox.",
    "Why is the sky blue?",
    "List the days of the week.",
    "What does a baker do?",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: everything that its right answer depends on, and how it is delivered."""

    prompt: str
    max_tokens: int
    api: Api = "chat/completions"
    is_streamed: bool = True
    ignores_end: bool = False  # answers with max_tokens tokens, whatever the model wants

    def body(self, model: str) -> Json:
        body: Json = {"model": model, "max_tokens": self.max_tokens, "temperature": 0}
        if self.api == "completions":
            body["prompt"] = self.prompt
        else:
            body["messages"] = [{"role": "user", "content": self.prompt}]
        if self.ignores_end:
            body["ignore_eos"] = True
        if self.is_streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def mixed_asks(max_tokens: int, stream_share: float = 0.5, seed: int = 0) -> tuple[Ask, ...]:
    """Every prompt through every API; a seeded draw decides which are streamed."""
    draw = random.Random(seed)
    return tuple(
        Ask(prompt, max_tokens, api, is_streamed=draw.random() < stream_share)
        for prompt, api in itertools.product(PROMPTS, APIS)
    )


def long_streams(max_tokens: int, prompts: int = 4) -> tuple[Ask, ...]:
    """Streamed chats that go on for `max_tokens` tokens."""
    return tuple(Ask(prompt, max_tokens, ignores_end=True) for prompt in PROMPTS[:prompts])


# What end-to-end tests send. 48 tokens are some seconds of a busy CPU: long enough to be open
# when something happens, short enough to wait for.
SHORT_ASKS = mixed_asks(max_tokens=8)
LONG_STREAMS = long_streams(max_tokens=48)

# Headers of a control run: a client that prefers a cut stream to one that is continued.
NO_RESUME = {"x-openinference-resume": "off"}
