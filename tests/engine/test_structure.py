"""Answers that follow a schema, a pattern, a choice or a grammar; and what cannot be followed."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import openai
import pytest
from openinference_engine.errors import RequestError
from openinference_engine.server.schema import ChatRequest
from openinference_engine.server.structure import structure_of
from openinference_engine.server.validation import parse
from pydantic import BaseModel

QUESTION: Any = [{"role": "user", "content": "Describe a person called Ada as JSON."}]
# Hot, so that what is said follows from the grammar and not from what the model would say anyway.
ASKED: Any = {
    **{"model": "smollm2", "messages": QUESTION, "seed": 3, "temperature": 1.5},
    **{"max_tokens": 120},
}


class Person(BaseModel):
    name: str
    age: int
    tags: list[str]


def nested(num_objects: int) -> dict[str, Any]:
    """The schema of an object in an object, and so on."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(num_objects):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def optional(num_properties: int) -> dict[str, Any]:
    """The schema of an object that may lack any of its properties."""
    return {"type": "object", "properties": {f"p{number}": {} for number in range(num_properties)}}


def deep_pattern(num_groups: int) -> dict[str, Any]:
    """What ended the core, and every request in it, with an overflow of the stack."""
    return {"type": "string", "pattern": "(" * num_groups + "a" + ")" * num_groups}


def chained(num_references: int) -> dict[str, Any]:
    """The schema of an object in an object, and so on, each told by a reference to the next."""
    schemas = [
        {"type": "object", "properties": {"a": {"$ref": f"#/$defs/{number + 1}"}}}
        for number in range(num_references)
    ]
    named = {str(number): schema for number, schema in enumerate([*schemas, {"type": "integer"}])}
    return {"$ref": "#/$defs/0", "$defs": named}


def ask(http: httpx2.Client, **fields: Any) -> tuple[str, str]:
    """The text of an answer and why it ended."""
    answer = http.post("/v1/chat/completions", json=ASKED | fields)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def test_schema_of_a_class_comes_back_as_its_object(client: openai.OpenAI) -> None:
    """Seeds whose lists would go on beyond max_tokens are as good as any; this one ends."""
    answer = client.chat.completions.parse(**ASKED | {"seed": 5}, response_format=Person)
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person)
    assert answer.choices[0].finish_reason == "stop"


def test_any_object_is_json(http: httpx2.Client) -> None:
    form = {"type": "json_object"}
    text, reason = ask(http, response_format=form, seed=0, temperature=0.7, max_tokens=200)
    assert reason == "stop"
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2,4}"}}, "[a-c]{3}-[0-9]{2,4}"),
        ({"guided_regex": "(yes|no), sir"}, "(yes|no), sir"),
        ({"structured_outputs": {"choice": ["Prague", "Brno", "Plzeň"]}}, "Prague|Brno|Plzeň"),
        ({"guided_choice": ["42"]}, "42"),
        ({"guided_grammar": 'root ::= "<" [x-z]+ ">"'}, "<[x-z]+>"),
        ({"structured_outputs": {"grammar": 'root ::= "a" root | "b"'}}, "a*b"),
        ({"guided_json": {"enum": [1, "two", None]}}, '1|"two"|null'),
        ({"guided_json": '{"type": "boolean"}'}, "true|false"),
    ],
)
def test_answer_follows(http: httpx2.Client, fields: dict[str, Any], pattern: str) -> None:
    text, reason = ask(http, **fields)
    assert reason == "stop"
    assert re.fullmatch(pattern, text)


def test_choices_of_one_request_follow_on_their_own(http: httpx2.Client) -> None:
    body = ASKED | {"n": 2, "guided_regex": "[a-z]{6}"}
    texts = [
        choice["message"]["content"]
        for choice in http.post("/v1/chat/completions", json=body).json()["choices"]
    ]
    assert all(re.fullmatch("[a-z]{6}", text) for text in texts)
    assert texts[0] != texts[1]


def test_grammar_wins_where_other_rules_leave_nothing(http: httpx2.Client) -> None:
    fields = {"guided_choice": ["Brno"], "allowed_token_ids": [504], "bad_words": ["Brno", "B"]}
    assert ask(http, **fields) == ("Brno", "stop")


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"guided_regex": "[a"}, "guided_regex", "Unclosed '['; mend it"),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "cannot look ahead"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar", 'Rule "x" is not defined; mend it'),
        ({"guided_grammar": "root ::= é"}, "guided_grammar", "line 1, column 10"),
        ({"guided_json": {"type": "object", "required": 1}}, "guided_json", "required"),
        ({"guided_json": {"type": "objekt"}}, "guided_json", 'Unsupported type "objekt"'),
        ({"guided_json": "{"}, "guided_json", "is not the JSON of an object"),
        ({"guided_json": {"$ref": "#/x"}}, "guided_json", "Cannot find field x"),
        ({"guided_json": {"enum": ["x" * 300_000]}}, "guided_json", "use at most 262144"),
        ({"guided_json": nested(64)}, "guided_json", "nests deeper than 128 levels; flatten it"),
        ({"guided_json": optional(513)}, "guided_json", "513 properties that may be missing"),
        (
            {"guided_json": deep_pattern(30_000)},
            "guided_json",
            "a pattern has 60001 characters, more than 4096",
        ),
        (
            {"guided_json": {"patternProperties": {"a?" * 2049: {}}}},
            *("guided_json", "a pattern has 4098 characters, more than 4096; shorten it"),
        ),
        ({"guided_regex": "a?" * 2049}, "guided_regex", "4098 characters, more than 4096"),
        ({"guided_json": {"$ref": "#"}}, "guided_json", "nothing can follow it; mend it"),
        ({"guided_choice": []}, "guided_choice", "length >= 1"),
        ({"structured_outputs": {"xml": 1}}, "structured_outputs", "unknown field `xml`"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'xml'"),
        (
            {"response_format": {"type": "json_schema"}},
            *("response_format", "missing required field `json_schema`"),
        ),
        (
            {"guided_regex": "a", "guided_choice": ["b"]},
            *("guided_regex", "guided_regex and guided_choice contradict; send one"),
        ),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "remove one of them"),
        ({"guided_regex": "a", "min_tokens": 3}, "min_tokens", "remove one of them"),
    ],
)
def test_structure_that_cannot_be_kept_is_refused(
    http: httpx2.Client, fields: dict[str, Any], field: str, message: str
) -> None:
    answer = http.post("/v1/chat/completions", json=ASKED | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field)
    assert message in error["message"]


def test_references_nest_as_deep_as_they_like(http: httpx2.Client) -> None:
    """No bound counts them: each is a rule of its own, so compiling takes time in proportion."""
    text, _ = ask(http, guided_json=chained(1000))
    assert re.match(r'\s*\{\s*("a"|\})', text)


def test_pattern_may_nest_as_deep_as_its_length_allows(http: httpx2.Client) -> None:
    assert ask(http, guided_json=deep_pattern(2047)) == ('"a"', "stop")


def test_object_may_have_many_required_properties() -> None:
    schema = optional(2000)
    assert structure_of(chat_request(guided_json=schema | {"required": [*schema["properties"]]}))


def test_schema_may_nest_as_deep_as_is_said() -> None:
    assert structure_of(chat_request(guided_json=nested(63))) is not None


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ({"anyOf": [{"$ref": "#/$defs/b"}], "$defs": {"b": {"if": {}}}}, "if"),
    ],
)
def test_keyword_that_no_grammar_can_keep_is_named(schema: Any, keyword: str) -> None:
    with pytest.raises(RequestError, match=f"the keyword '{keyword}' cannot be kept; remove it"):
        structure_of(chat_request(guided_json=schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"not": {"type": "string"}, "if": {"enum": [{"contains": 1}]}}},
        {"type": "array", "uniqueItems": False},
    ],
)
def test_properties_may_be_named_like_keywords(schema: Any) -> None:
    assert structure_of(chat_request(guided_json=schema)) is not None


def chat_request(**fields: Any) -> ChatRequest:
    return parse(json.dumps(ASKED | fields).encode(), ChatRequest)
