"""The router as a process in front of real engines, watched from a client's chair.

A stream that was disturbed must equal the one that was not: text, ids, finish reason and usage.
"""

import asyncio
import json
import signal

import aiohttp
import openai
from openinference_router.load import SILENT_SECONDS

PROMPTS = [
    "Tell me about the sea.",
    "Write a list of three fruits.",
    "What is a compiler?",
    "Name a river and describe it.",
]


def body(number: int = 0, **changes) -> dict:
    """One of a few requests that differ in prompt and way of sampling."""
    sampled = {"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}
    return {
        "model": "smollm2",
        "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
        "max_tokens": 32,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampled,
        **changes,
    }


async def stream(
    client: aiohttp.ClientSession, url: str, asked: dict, begun: list | None = None, **headers
) -> dict:
    """What a client makes of one stream; raises when it is not whole.

    While its tokens come, `begun` holds the group that they come from.
    """
    begun = [] if begun is None else begun
    async with client.post(f"{url}/v1/chat/completions", json=asked, headers=headers) as response:
        assert response.status == 200, await response.text()
        lines, group = [], response.headers.get("x-openinference-group")
        async for line in response.content:
            if line.startswith(b"data: "):
                lines.append(line)
                if len(lines) == 3:
                    begun.append(group)
        begun.remove(group)
    assert lines.pop() == b"data: [DONE]\n"
    chunks = [json.loads(line[6:]) for line in lines]
    assert not [chunk for chunk in chunks if "error" in chunk or "openinference" in chunk]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    return {
        "identities": len({(chunk["id"], chunk["created"]) for chunk in chunks}),
        "roles": sum("role" in choice["delta"] for choice in choices),
        "text": "".join(choice["delta"].get("content", "") for choice in choices),
        "finish": [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        "usage": [
            (usage["prompt_tokens"], usage["completion_tokens"])
            for chunk in chunks
            if (usage := chunk["usage"])
        ],
    }


def logged_streams(front) -> list[dict]:
    """What the router's access log says of the streams that have ended."""
    whole_lines = front.process.log_path.read_text().rpartition("\n")[0].splitlines()
    return [line for line in map(json.loads, whole_lines) if line.get("stream")]


async def test_the_official_client_gets_its_answers(front):
    async with openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key="unused") as sdk:
        asked = {"model": "smollm2", "messages": body()["messages"], "max_tokens": 16, "seed": 3}
        whole = await sdk.chat.completions.create(**asked)
        chunks = [chunk async for chunk in await sdk.chat.completions.create(**asked, stream=True)]
        models = await sdk.models.list()
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""
    assert [model.id for model in models.data] == ["smollm2"]


async def test_a_killed_engine_loses_no_request_and_changes_no_text(front, client, engines, until):
    """Streams and whole answers are open on both engines when one is killed.

    The control group has its resume switched off: the kill is one that hurts.
    """
    asked = [body(number, min_tokens=40, max_tokens=40) for number in range(10)]
    undisturbed = await asyncio.gather(*(stream(client, front.url, one) for one in asked))

    async def whole(number: int) -> int:
        request = body(number, stream=False, stream_options=None)
        async with client.post(f"{front.url}/v1/chat/completions", json=request) as response:
            return (await response.json())["usage"]["completion_tokens"]

    off = {"x-openinference-resume": "off"}
    begun, control_begun = [], []
    streams, control = [], []
    for first in range(0, len(asked), 2):  # by pairs, or each engine would get but one kind
        for one in asked[first : first + 2]:
            streams.append(asyncio.create_task(stream(client, front.url, one, begun)))
        for one in asked[first : first + 2]:
            task = stream(client, front.url, one, control_begun, **off)
            control.append(asyncio.create_task(task))
    answers = [asyncio.create_task(whole(number)) for number in range(4)]
    killed = engines[0].routed.id
    await until(lambda: killed in begun and killed in control_begun)
    engines[0].process.kill()
    assert await asyncio.gather(*streams) == undisturbed
    assert all(await asyncio.gather(*answers))
    ends = await asyncio.gather(*control, return_exceptions=True)
    assert any(isinstance(end, AssertionError) for end in ends)


async def test_the_stream_of_an_only_engine_waits_for_its_return(
    front, client, engines, api_server, make_routing, until
):
    undisturbed = await stream(client, front.url, body(3))
    api_server.put_routing(make_routing(engines[0].routed, generation=2))
    await front.admitted(1)
    begun: list = []
    tasks = [asyncio.create_task(stream(client, front.url, body(3), begun)) for _ in range(8)]
    await until(lambda: begun)
    engines[0].process.kill()
    await front.admitted(0)
    await engines[0].restart()
    assert await asyncio.gather(*tasks) == [undisturbed] * 8


async def test_requests_are_held_from_zero_until_an_engine_is_ready(
    front, client, engines, api_server, make_routing
):
    api_server.put_routing(make_routing(generation=2))
    await front.admitted(0)
    tasks = [asyncio.create_task(stream(client, front.url, body(n))) for n in range(12)]
    async for state in front.states():
        if state["services"]["demo"]["held"] == 12:
            break
    api_server.put_routing(make_routing(engines[1].routed, generation=3))
    assert all(answer["text"] for answer in await asyncio.gather(*tasks))


async def test_a_router_that_drains_finishes_what_is_open_and_exits_0(front, client, until):
    begun: list = []
    tasks = [asyncio.create_task(stream(client, front.url, body(n), begun)) for n in range(8)]
    await until(lambda: begun)
    front.process.signal(signal.SIGTERM)
    await until(lambda: "router drains" in front.process.log_path.read_text())
    late = await stream(client, front.url, body(1, max_tokens=4))  # endpoints have not changed yet
    assert late["text"]
    assert all(answer["text"] for answer in await asyncio.gather(*tasks))
    assert await asyncio.to_thread(front.process.popen.wait, 60) == 0


async def test_an_engine_that_drains_finishes_its_streams_and_gets_no_more(
    front, client, engines, until
):
    begun: list = []
    tasks = [asyncio.create_task(stream(client, front.url, body(n), begun)) for n in range(8)]
    await until(lambda: engines[1].routed.id in begun)
    engines[1].process.signal(signal.SIGTERM)
    await front.admitted(1)
    later = [asyncio.create_task(stream(client, front.url, body(n))) for n in range(4)]
    assert all(answer["text"] for answer in await asyncio.gather(*tasks, *later))
    assert await asyncio.to_thread(engines[1].process.popen.wait, 60) == 0


async def test_streams_leave_an_engine_whose_drain_would_cut_them(
    front, client, engines, api_server, make_routing, until
):
    """It ends long before its own drain does, and nobody sees a difference."""
    asked = [body(number, min_tokens=150, max_tokens=150) for number in range(4)]
    undisturbed = await asyncio.gather(*(stream(client, front.url, one) for one in asked))
    groups = [engine.routed for engine in engines]
    api_server.put_routing(make_routing(*groups, generation=2, drain_timeout_seconds=1))
    begun: list = []
    tasks = [asyncio.create_task(stream(client, front.url, one, begun)) for one in asked]
    await until(lambda: engines[1].routed.id in begun)
    engines[1].process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(engines[1].process.popen.wait, 60) == 0
    assert await asyncio.gather(*tasks) == undisturbed
    await until(lambda: len(logged_streams(front)) == 2 * len(asked))
    assert any(len(line["groups"]) > 1 for line in logged_streams(front)), "none has moved"


async def test_a_router_that_was_held_up_does_not_take_its_engines_for_dead(front, client, until):
    """Throttled for seconds, it found its timers due before it read the reports that had come.

    Every stream of every engine was then cut and resumed, by a router short of time already.
    """
    asked = [body(number, min_tokens=150, max_tokens=150) for number in range(4)]
    begun: list = []
    tasks = [asyncio.create_task(stream(client, front.url, one, begun)) for one in asked]
    await until(lambda: len(begun) == len(asked))
    front.process.signal(signal.SIGSTOP)
    await asyncio.sleep(SILENT_SECONDS + 1)
    front.process.signal(signal.SIGCONT)
    assert all(answer["text"] for answer in await asyncio.gather(*tasks))
    await until(lambda: len(logged_streams(front)) == len(asked))
    assert [line["failures"] for line in logged_streams(front)] == [[]] * len(asked)
