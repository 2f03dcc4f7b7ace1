"""Tool calls through the official client, held to the schemas of tools; tools that are refused."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from openinference_engine.parsers.formats import FORMATS
from openinference_engine.parsers.reading import Reading
from openinference_engine.server.schema import ChatRequest
from openinference_engine.server.shape import held_to
from openinference_engine.server.tools import tool_use
from openinference_engine.server.validation import parse
from openinference_engine.tokenizer.chat import ChatOptions, ChatTemplate
from openinference_engine.tokenizer.plain_tools import in_plain_messages

QUESTION: Any = [{"role": "user", "content": "What is the weather in Brno and in Prague?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"enum": ["celsius", "kelvin"]},
            },
            "required": ["city", "unit"],
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
# Hot, so that calls follow from what is asked for and not from what the model would say anyway.
ASKED: Any = {
    **{"model": "smollm2", "messages": QUESTION, "tools": [WEATHER, TIME]},
    **{"seed": 1, "temperature": 1.3, "max_tokens": 160},
}


def check_weather(arguments: str) -> None:
    given = json.loads(arguments)
    assert set(given) == {"city", "unit"}
    assert given["unit"] in ("celsius", "kelvin")
    assert len(given["city"]) <= 12


def test_named_tool_is_called_once_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(**ASKED, tool_choice=choice).choices[0]
    (call,) = answer.message.tool_calls or []
    assert (call.type, call.function.name, answer.finish_reason) == (
        *("function", "get_weather"),
        "tool_calls",
    )
    assert answer.message.content is None
    check_weather(call.function.arguments)


def test_some_tool_is_called_where_one_is_required(client: openai.OpenAI) -> None:
    asked = ASKED | {"tool_choice": "required", "parallel_tool_calls": False}
    for seed in range(3):
        answer = client.chat.completions.create(**asked | {"seed": seed}).choices[0]
        (call,) = answer.message.tool_calls or []
        assert call.function.name in ("get_weather", "get_time")
        assert isinstance(json.loads(call.function.arguments), dict)


def test_stream_brings_the_same_call_in_pieces(client: openai.OpenAI) -> None:
    asked = ASKED | {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    (whole,) = client.chat.completions.create(**asked).choices[0].message.tool_calls or []
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    first, *rest = deltas
    assert first.function is not None
    assert (first.index, first.type, first.function.name) == (0, "function", "get_weather")
    assert first.id
    assert all(call.id is None and call.index == 0 for call in rest)
    arguments = "".join((call.function and call.function.arguments) or "" for call in deltas)
    assert arguments == whole.function.arguments
    assert len(deltas) > 4
    assert [chunk.finish_reason for chunk in chunks][-2:] == [None, "tool_calls"]


def test_turn_with_calls_and_results_may_be_sent_back(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    first = client.chat.completions.create(**ASKED, tool_choice=choice).choices[0].message
    (call,) = first.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees, rain"}
    turns = [*QUESTION, first, result]
    asked = ASKED | {"messages": turns, "temperature": 0, "max_tokens": 20}
    answer = client.chat.completions.create(**asked, tool_choice="none").choices[0].message
    assert answer.content
    assert answer.tool_calls is None


def test_tools_may_stay_unused(client: openai.OpenAI) -> None:
    """The model is free to answer in words, and no grammar is in its way."""
    asked = ASKED | {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0}
    answer = client.chat.completions.create(**asked, logit_bias={"4": -100}).choices[0]
    assert answer.message.content
    assert answer.finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools", "two are named 'get_weather'; rename one"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "send tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            *("tool_choice", "'f' is none of the tools; use one of ['get_weather', 'get_time']"),
        ),
        ({"tool_choice": "maybe"}, "tool_choice", '"maybe" is not allowed'),
        ({"tools": [{"type": "function"}]}, "tools[0]", "missing required field `function`"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            *("tools[0].function.name", "matching regex"),
        ),
        ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos", "contradicts tools"),
        (
            {"messages": [{"role": "assistant"}]},
            *("messages", "one of the role 'assistant' has no content; send some"),
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": "{"}}],
                    }
                ]
            },
            *("messages", "the arguments of a call of 'f' are not the JSON of an object"),
        ),
    ],
)
def test_tools_that_cannot_be_called_are_refused(
    http: httpx2.Client, change: dict[str, Any], field: str, message: str
) -> None:
    answer = http.post("/v1/chat/completions", json=ASKED | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field)
    assert message in error["message"]


def test_schema_of_a_tool_that_is_not_sound_is_refused(http: httpx2.Client) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}
    body = ASKED | {"tools": [tool], "tool_choice": "required"}
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert 'Unsupported type "objekt"' in answer.json()["error"]["message"]


def test_template_without_tools_is_told_of_them_in_plain_messages() -> None:
    call = {"function": {"name": "get_time", "arguments": {"zone": "CET"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00", "tool_call_id": "1"},
    ]
    system, user, assistant, tool = in_plain_messages(messages, [TIME])
    assert system["content"].startswith("Be brief.\n\n")
    assert '"get_time"' in system["content"]
    assert user == messages[1]
    assert assistant["content"] == (
        '<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>'
    )
    assert tool == {"role": "user", "content": "<tool_response>\n12:00\n</tool_response>"}


def test_template_gets_tools_and_variables_of_its_own() -> None:
    source = "{% for t in tools %}{{ t.function.name }}{% endfor %}{{ enable_thinking }}"
    options = ChatOptions(tools=[TIME], variables={"enable_thinking": False, "messages": "mine"})
    template = ChatTemplate(source, {})
    assert template.knows_tools
    assert template.render([{"role": "user", "content": "x"}], options) == "get_timeFalse"


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("change", [{"tool_choice": "required"}, {"parallel_tool_calls": False}])
@pytest.mark.parametrize("is_open", [None, False, True])
def test_every_format_has_a_sound_grammar_that_its_parser_reads(
    name: str, change: dict[str, Any], is_open: bool | None
) -> None:
    """What the grammar accepts as a call is one for the parser too; with reasoning before it."""
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string as accepts

    request = parse(json.dumps(ASKED | change).encode(), ChatRequest)
    tools = tool_use(request, FORMATS[name])
    assert tools is not None
    reading = Reading(
        has_reasoning=is_open is not None,
        begins_with_reasoning=bool(is_open),
        call_format=tools.form,
        tool_names=tools.names,
    )
    structure = held_to(request, tools, reading)
    assert structure is not None
    tag = {"type": "structural_tag", "format": structure.format}
    grammar = Grammar.from_structural_tag(json.dumps(tag))
    form, arguments = tools.form, '{"city": "Brno", "unit": "kelvin"}'
    call = form.prefix + form.head % "get_weather" + arguments + form.tail + form.suffix
    thought = {None: "", False: "<think>Hm.</think>\n\n", True: "Hm.</think>\n\n"}[is_open]
    assert accepts(grammar, thought + call)
    assert accepts(grammar, thought + "No.") == ("parallel_tool_calls" in change)
    parser = reading.new_parser()
    parts = parser.feed(thought + call)
    parts.extend(parser.flush())
    assert parts.text == ""
    assert parts.reasoning == ("" if is_open is None else "Hm.")
    assert "".join(delta.arguments for delta in parts.calls) == arguments
