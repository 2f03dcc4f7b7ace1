"""Requests drawn from the API's own description, good and bad, and what the service says to them.

They go through the router process to a real engine. Whatever they are, the answer is no 500, an
error is OpenAI's object, and what the description does not allow is refused.
"""

import asyncio
import json
import random
import urllib.request
from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from openinference_router.exchange import GENERATING
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

NUM_EXAMPLES = {GenerationMode.POSITIVE: 15, GenerationMode.NEGATIVE: 8}
NEEDED = {"model", "messages", "prompt", "input", "tokens"}
MAX_OPTIONS = 2  # of the forty that are drawn together hardly any set makes sense
LIMITS = {"max_tokens": 2, "max_completion_tokens": 2, "min_tokens": 2, "n": 2, "best_of": 2}


def sensible(path: str, body: dict) -> dict:
    """For the model that is served, with few options, and so that an answer takes no minute."""
    options = sorted(body.keys() - NEEDED)
    chosen = random.Random(len(str(body))).sample(options, min(MAX_OPTIONS, len(options)))
    kept = {name: value for name, value in body.items() if name in NEEDED or name in chosen}
    kept |= {name: min(kept[name], most) for name, most in LIMITS.items() if kept.get(name)}
    shortened = {"max_tokens": 2} if path in GENERATING else {}
    return shortened | kept | {"model": "smollm2"}


async def test_whatever_is_asked_by_the_description_is_answered_or_refused(front):
    statuses = await asyncio.to_thread(converse, front.url)
    assert statuses.keys() <= {200, 400, 404}
    assert statuses[200] > 10
    assert statuses[400] > 20


def converse(url: str) -> Counter[int]:
    """How often each status was the answer."""
    with urllib.request.urlopen(f"{url}/openapi.json") as response:  # noqa: S310  loopback
        schema = schemathesis.openapi.from_dict(json.load(response))
    statuses: Counter[int] = Counter()
    for operation in (each.ok() for each in schema.get_all_operations()):
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            statuses += ask_often(url, operation, mode)
    return statuses


def ask_often(url: str, operation, mode: GenerationMode) -> Counter[int]:
    statuses: Counter[int] = Counter()

    @seed(20260101)
    @settings(
        max_examples=NUM_EXAMPLES[mode],
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if operation.body and mode is GenerationMode.POSITIVE:
            case.body = sensible(operation.path, case.body)
        response = case.call(base_url=url, timeout=60)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code != 200:
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}

    ask()
    return statuses
