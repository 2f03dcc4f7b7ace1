"""Everything that is refused: the status, the field it names, and that nothing else notices."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx2
import pytest

USER = {"role": "user", "content": "Hi"}
LONG_TOOL = {"type": "function", "function": {"name": "f", "description": "a" * 2_000_000}}
LONG_ARGUMENTS = '{"text": "' + "a" * 2_000_000 + '"}'
LONG_CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": LONG_ARGUMENTS}}],
}
LONG_THOUGHT = {"role": "assistant", "content": "x", "reasoning_content": "a" * 2_000_000}
CHAT = {"model": "smollm2", "messages": [USER], "max_tokens": 1}


@pytest.mark.parametrize(
    ("change", "status", "field", "message"),
    [
        ({"model": "other"}, 404, "model", "'other' is not served here; use 'smollm2'"),
        ({"model": None}, 400, "model", "missing required field `model`"),
        ({"messages": []}, 400, "messages", "length >= 1"),
        ({"messages": [{"role": "user"}]}, 400, "messages", "'user' has no content; send some"),
        ({"messages": [{"content": "x"}]}, 400, "messages[0]", "missing required field `role`"),
        ({"messages": "Hi"}, 400, "messages", '"Hi" is not allowed; expected `array`'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            *(400, "messages[0].content[0].type", "invalid value 'image_url'"),
        ),
        ({"messages": [{"role": "user", "content": "long " * 600}]}, 400, "messages", "shorten it"),
        # One word so long that encoding it would block the heartbeat for many seconds.
        ({"messages": [{"role": "user", "content": "a" * 4_000_000}]}, 400, "messages", "fit"),
        # So does what a template shows beside the text of messages.
        ({"tools": [LONG_TOOL]}, 400, "tools", "characters cannot fit"),
        (
            {"chat_template_kwargs": {"notes": "a" * 2_000_000}},
            *(400, "chat_template_kwargs", "characters cannot fit"),
        ),
        ({"messages": [USER, LONG_CALL]}, 400, "messages", "characters cannot fit"),
        ({"messages": [USER, LONG_THOUGHT]}, 400, "messages", "characters cannot fit"),
        ({"logit_bias": {"1" * 5000: 1}}, 400, "logit_bias", "keys must be token ids"),
        ({"top_k": 2**70}, 400, "top_k", "is not allowed"),
        ({"temperature": -0.1}, 400, "temperature", "-0.1 is not allowed; expected `float` >= 0"),
        ({"temperature": "warm"}, 400, "temperature", '"warm" is not allowed'),
        ({"top_p": 0}, 400, "top_p", "0 is not allowed"),
        ({"top_k": -2}, 400, "top_k", ">= -1"),
        ({"min_p": 1.5}, 400, "min_p", "<= 1"),
        ({"n": 0}, 400, "n", ">= 1"),
        ({"functions": [{"name": "f"}]}, 400, "functions", "send `tools`"),
        ({"chat_template": "{{ 1 }}"}, 400, "chat_template", "only the model's own runs"),
        ({"max_tokens": 0}, 400, "max_tokens", ">= 1"),
        ({"max_tokens": 10_000}, 400, "max_tokens", "use at most"),
        ({"max_completion_tokens": 9999}, 400, "max_completion_tokens", "use at most"),
        ({"min_tokens": 5}, 400, "min_tokens", "exceeds max_tokens 1; lower it"),
        ({"seed": 1.5}, 400, "seed", "1.5 is not allowed"),
        ({"stop": [""]}, 400, "stop[0]", "length >= 1"),
        ({"stop_token_ids": [50_000]}, 400, "stop_token_ids", "use 0 to 49151"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias", "keys must be token ids"),
        ({"logit_bias": {"49152": 1}}, 400, "logit_bias", "49152 is no token"),
        ({"presence_penalty": 3}, 400, "presence_penalty", "<= 2"),
        ({"stream_options": {}}, 400, "stream_options", "only allowed with stream"),
        ({"logprobs": 2}, 400, "logprobs", "2 is not allowed; expected `bool`"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "only allowed with logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "<= 20"),
        ({"prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs", "set stream: false"),
        ({"allowed_token_ids": []}, 400, "allowed_token_ids", "name some or remove the field"),
        ({"allowed_token_ids": [49152]}, 400, "allowed_token_ids", "49152 is no token"),
        ({"bad_words": [""]}, 400, "bad_words[0]", "length >= 1"),
        ({"bad_words": ["a" * 257]}, 400, "bad_words[0]", "length <= 256"),
        ({"verbosity": "low"}, 400, "verbosity", '"low" is not supported; remove the field'),
        ({"web_search_options": {}}, 400, "web_search_options", "{} is not supported"),
        ({"temprature": 1}, 400, "temprature", "this field is unknown; remove it"),
        ({"openinference": {"resume": {}}}, 400, "openinference.resume", "missing required field"),
        (
            {"openinference": {"resume": {"id": "x", "created": 1, "token_ids": {}}}},
            *(400, "openinference.resume", "needs stream: true and the seed"),
        ),
    ],
)
def test_bad_request_names_field_value_and_remedy(
    http: httpx2.Client, change: dict[str, Any], status: int, field: str, message: str
) -> None:
    answer = http.post("/v1/chat/completions", json=CHAT | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, field)
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "change",
    [
        {
            "tools": [],
            "tool_choice": "none",
            "logprobs": False,
            "response_format": {"type": "text"},
        },
        {"temperature": None, "stop": None, "user": "someone", "n": 1, "store": False},
        {"safety_identifier": "someone", "prompt_cache_key": "a", "verbosity": "medium"},
        {
            "stream": True,
            "stream_options": {"include_usage": None},
            "tools": [{"type": "function", "function": {"name": "f", "strict": None}}],
            "response_format": {"type": "text", "json_schema": None},
        },
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": None, "function": {"name": "f", "arguments": ""}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "x"}]},
            ]
        },
    ],
)
def test_fields_that_ask_for_nothing_are_accepted(
    http: httpx2.Client, change: dict[str, Any]
) -> None:
    """As clients write them that leave nothing out: null for a field, no letter for no arguments.

    Regression: only fields of the request and its messages could be null.
    """
    assert http.post("/v1/chat/completions", json=CHAT | change).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "is a JSON list; send an object"),
        (b'{"model": "\xff"}', 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b'"' + b"x" * (5 << 20) + b'"', 413, "the body exceeds 4194304 bytes"),
    ],
)
def test_bad_body_is_refused(http: httpx2.Client, body: bytes, status: int, message: str) -> None:
    answer = http.post("/v1/chat/completions", content=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_body_that_is_not_coded_as_it_says_is_refused(http: httpx2.Client) -> None:
    """It was a failure of the server, with a traceback in its log."""
    headers = {"content-encoding": "gzip"}
    answer = http.post("/v1/chat/completions", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "check Content-Encoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "the prompt has no tokens; send some text"),
        ({"prompt": [1, 60_000]}, "60000 is no token of this model"),
        ({"prompt": {"text": "x"}}, "is not allowed"),
        ({"prompt": ["x", ""]}, "prompt[1]: the prompt has no tokens; send some text"),
        ({"prompt": [[1], [60_000]]}, "prompt[1]: 60000 is no token of this model"),
        ({"prompt": ["x"] * 2000}, "prompt: 2000 answers at once are more than"),
        ({"prompt": ["x"] * 20, "n": 100}, "prompt: 2000 answers at once are more than"),
        ({"prompt": ["x", 5]}, "prompt: mixes texts and token ids"),
        ({"prompt": []}, "the prompt has no tokens; send some text"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo: a stream rates no prompt"),
        ({"suffix": "end"}, "no model that is served here learnt to fill a middle"),
        ({"best_of": 3}, "best_of: 3 is not n = 1; ask for n: 3 with logprobs"),
        ({"n": 2, "best_of": 1}, "best_of: 1 is not n = 2"),
        ({"use_beam_search": True}, "use_beam_search: true is not supported; remove the field"),
        ({"logprobs": True}, "logprobs: true is not allowed; expected `int"),
        ({"messages": []}, "messages: this field is unknown"),
    ],
)
def test_bad_completion_is_refused(http: httpx2.Client, change: Any, message: str) -> None:
    body = {"model": "smollm2", "prompt": "x", "max_tokens": 1} | change
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        ("/tokenize", {}, "prompt", "send either prompt or messages"),
        ("/tokenize", {"prompt": "x" * 4_000_000}, "prompt", "shorten it"),
        ("/tokenize", {"model": "other", "prompt": "x"}, "model", "use 'smollm2'"),
        ("/tokenize", {"prompt": 1}, "prompt", "1 is not allowed"),
        ("/detokenize", {"tokens": [49152]}, "tokens", "49152 is no token"),
        ("/detokenize", {"tokens": "x"}, "tokens", '"x" is not allowed'),
    ],
)
def test_bad_text_or_tokens_are_refused(
    http: httpx2.Client, path: str, body: dict[str, Any], field: str, message: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == (404 if field == "model" else 400)
    assert answer.json()["error"]["param"] == field
    assert message in answer.json()["error"]["message"]


def test_unknown_path_and_method_are_error_objects(http: httpx2.Client) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405)):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert path in answer.json()["error"]["message"]


def test_full_queue_is_429_and_its_neighbours_finish(http: httpx2.Client, server: Any) -> None:
    """Two seats and two waiting: of six at once, two are refused at once.

    The core stands still meanwhile: nobody has ended when the last one comes.
    """
    body, core = CHAT | {"max_tokens": 40, "ignore_eos": True}, server.core_pid()

    def ask() -> int:
        return http.post("/v1/chat/completions", json=body).status_code

    with ThreadPoolExecutor(6) as clients:
        os.kill(core, signal.SIGSTOP)
        try:
            answers = as_completed([clients.submit(ask) for _ in range(6)], timeout=120)
            first = [next(answers).result() for _ in range(2)]
        finally:
            os.kill(core, signal.SIGCONT)
        assert first == [429, 429]
        assert [answer.result() for answer in answers] == [200] * 4


def test_more_choices_than_the_server_ever_holds_are_refused_for_good(http: httpx2.Client) -> None:
    """Regression: 429 said that the same request would have a place later."""
    answer = http.post("/v1/chat/completions", json=CHAT | {"n": 5})
    assert answer.status_code == 400
    assert "n: 5 answers at once are more than the 4" in answer.json()["error"]["message"]
