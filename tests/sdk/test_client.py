"""The client in front of a real engine; what needs a cluster is in e2e/test_sdk.py."""

import asyncio
import subprocess
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from openinferencev2 import AsyncClient, Client, CommandError, RequestFailed
from openinferencev2.async_client import _merged

QUESTION = [{"role": "user", "content": "What is the capital of France, and what is it known for?"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture
def service(engine_url):
    with Client(url=engine_url) as client:
        yield client.service()


def test_a_stream_brings_the_same_answer_piece_by_piece(service):
    whole = service.chat(QUESTION, **GREEDY)
    assert "Paris" in whole.text
    assert (whole.finish_reason, whole.num_tokens) == ("length", 12)
    pieces = [*service.stream_chat(QUESTION, **GREEDY)]
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text
    assert "".join(service.stream("One, two,", **GREEDY)) == (
        service.generate("One, two,", **GREEDY).text
    )


def test_a_stream_that_is_left_ends_and_the_client_goes_on(service):
    for _ in service.stream("Once upon a time", max_tokens=400, ignore_eos=True):
        break
    assert service.generate("One, two,", **GREEDY).num_tokens == 12


def test_what_is_refused_says_why(service):
    with pytest.raises(RequestFailed, match="temperature") as refused:
        service.chat(QUESTION, temperature=-1)
    assert refused.value.status == 400
    with pytest.raises(CommandError, match="n is no option here; leave it out"):
        service.chat(QUESTION, n=2)
    with pytest.raises(CommandError, match=r"take client\.service\(NAME\)"):
        service.wait()


def test_nobody_there_is_said_with_the_remedy():
    with pytest.raises(RequestFailed, match=r"nobody answers.*check --url"):
        Client(url="http://127.0.0.1:9").service().generate("x")
    with pytest.raises(CommandError, match="write http://localhost"):
        Client(url="localhost").service().generate("x")


async def test_requests_of_one_client_go_on_together(engine_url):
    async with AsyncClient(url=engine_url) as client:
        service = client.service()
        first = service.stream("One, two,", **GREEDY)
        await anext(first)
        assert (await service.generate("Once", max_tokens=2, ignore_eos=True)).num_tokens == 2
        await first.aclose()


async def test_a_request_that_fails_leaves_the_others_of_its_client_alone(unused_tcp_port):
    failed = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if (await request.json())["prompt"] == "hang up":
            request.transport.close()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"index": 0, "text": "one"}]}\n\n')
        await failed.wait()
        await response.write(b'data: {"choices": [{"index": 0, "text": "two"}]}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/completions", answer)])
    server = TestServer(app, port=unused_tcp_port)
    async with server, AsyncClient(url=f"http://127.0.0.1:{unused_tcp_port}") as client:
        service = client.service()
        heard = service.stream("go on")
        assert await anext(heard) == "one"
        with pytest.raises(RequestFailed):
            await service.generate("hang up")
        failed.set()
        assert [piece async for piece in heard] == ["two"]


def test_a_program_that_never_closes_its_client_ends_without_a_word(engine_url):
    program = (
        "from openinferencev2 import Client\n"
        f"print(Client(url={engine_url!r}).service().generate('a', max_tokens=2, ignore_eos=True)"
        ".finish_reason)"
    )
    words = [sys.executable, "-W", "error", "-c", program]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "length\n", "")


def test_a_client_needs_no_engine():
    program = (
        "import sys, openinferencev2; openinferencev2.Client; "
        "print([name for name in ('torch', 'openinference_engine') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "[]\n", ended.stderr


def test_further_fields_of_a_spec_join_those_that_have_arguments():
    made = {"model": {"uri": "m"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}
    further = {"resources": {"limits": {"memory": "2Gi"}}, "suspend": True}
    assert _merged(made, further) == {
        "model": {"uri": "m"},
        "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "2Gi"}},
        "suspend": True,
    }
