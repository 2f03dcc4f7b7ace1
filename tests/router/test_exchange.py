import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.errors import Refusal
from openinference_router.exchange import parse

CHAT = "/v1/chat/completions"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5
)


@given(st.dictionaries(st.text(), JSON))
def test_unknown_fields_reach_the_engine_unchanged(extra):
    given = {"model": "m", "seed": 7, "stream": True}
    body = {**{f"x{name}": value for name, value in extra.items()}, **given}
    exchange = parse(CHAT, json.dumps(body).encode())
    assert json.loads(exchange.body()) == body
    assert (exchange.model, exchange.is_stream) == ("m", True)


@pytest.mark.parametrize("seed", [{}, {"seed": None}])
def test_a_missing_seed_is_filled_in_once_for_all_attempts(seed):
    exchange = parse(CHAT, json.dumps({"model": "m", **seed}).encode())
    first, second = (json.loads(exchange.body())["seed"] for _ in range(2))
    assert first == second
    assert isinstance(first, int)


def test_seeds_differ_between_requests():
    bodies = [json.loads(parse(CHAT, b'{"model":"m"}').body()) for _ in range(20)]
    assert len({body["seed"] for body in bodies}) > 1


def test_the_internal_field_is_added_beside_the_clients_own():
    exchange = parse(CHAT, b'{"model":"m","seed":1}')
    body = json.loads(exchange.body({"stream_token_ids": True}))
    assert body == {"model": "m", "seed": 1, "openinference": {"stream_token_ids": True}}


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({}, math.inf),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7, "n": 2}, 14),
        ({"max_tokens": None, "n": 3}, math.inf),
        ({"max_tokens": "many"}, math.inf),
        ({"max_tokens": 5, "n": 2, "prompt": ["one", "two, three"]}, 20),
        ({"max_tokens": 5, "prompt": [[1, 2, 3], [4]]}, 10),
        ({"max_tokens": 5, "prompt": [1, 2, 3]}, 5),
        ({"max_tokens": 5, "prompt": "[[one"}, 5),
        ({"max_tokens": 5, "prompt": []}, 5),
    ],
)
def test_the_most_tokens_of_an_answer_are_those_of_all_its_choices(asked, most):
    body = {"model": "m", **asked}
    assert parse(CHAT, json.dumps(body).encode()).max_tokens == most
    assert parse(CHAT, json.dumps(body, indent=1).encode()).max_tokens == most


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "m"} {}',
        b'{"model": 3}',
        b'{"model": "m", "stream": "yes"}',
        b'{"model": "m", "seed": "x"}',
        b'{"model": "m", "openinference": {"resume": {}}}',
        b'{"model": "\xff"}',
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
)
def test_a_malformed_body_is_the_clients_error(body):
    with pytest.raises(Refusal) as caught:
        parse(CHAT, body)
    assert caught.value.status == 400
