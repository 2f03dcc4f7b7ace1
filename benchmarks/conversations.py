"""A trace of conversations of several turns, replayed against one port.

Every conversation opens with one of a few long system prompts and then grows: each turn repeats
all that was said before it. Turns of one conversation follow each other, conversations overlap.
"""

from __future__ import annotations

import asyncio
import random

from benchmarks.open_loop import Client

SEED = 7
NUM_CONVERSATIONS = 90
NUM_TURNS = 6
NUM_SYSTEM_PROMPTS = 8
SYSTEM_CHARACTERS = 6000
TURN_CHARACTERS = 1600
CONVERSATIONS_PER_SECOND = 3.0
READING_SECONDS = 1.0

Message = dict[str, str]


async def replay(port: int) -> list[float]:
    """Seconds until the first token of every turn."""
    rng = random.Random(SEED)
    systems = [text(rng, SYSTEM_CHARACTERS) for _ in range(NUM_SYSTEM_PROMPTS)]
    client = Client(port)
    tasks = []
    for number in range(NUM_CONVERSATIONS):
        system = systems[number % NUM_SYSTEM_PROMPTS]
        turns = [text(rng, TURN_CHARACTERS) for _ in range(2 * NUM_TURNS)]
        tasks.append(asyncio.create_task(converse(client, system, turns)))
        await asyncio.sleep(rng.expovariate(CONVERSATIONS_PER_SECOND))
    times = await asyncio.gather(*tasks)
    client.close()
    return [seconds for each in times for seconds in each]


async def converse(client: Client, system: str, turns: list[str]) -> list[float]:
    messages: list[Message] = [{"role": "system", "content": system}]
    times = []
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        messages.append({"role": "user", "content": question})
        seen = await client.ask(messages)
        if not seen.is_complete or seen.first_seconds is None:
            raise RuntimeError("a turn got no answer")
        times.append(seen.first_seconds)
        messages.append({"role": "assistant", "content": answer})
        await asyncio.sleep(READING_SECONDS)
    return times


def text(rng: random.Random, characters: int) -> str:
    return "".join(rng.choice("abcdefghij klmnop") for _ in range(characters))
