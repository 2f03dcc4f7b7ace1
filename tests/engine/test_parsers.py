"""Reasoning and tool calls are found in a text, however it is cut, and nothing else is touched."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openinference_engine.parsers import calls
from openinference_engine.parsers.calls import CallParser, ObjectScanner
from openinference_engine.parsers.formats import (
    FORMATS,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    CallFormat,
    format_of,
)
from openinference_engine.parsers.parts import Chain, Parser, Parts
from openinference_engine.parsers.reasoning import ReasoningParser

NAMES = frozenset({"add", "get_weather"})
ARGUMENTS = '{"city": "Plz{eň\\"}", "days": [1, {"n": 2}]}'


def read(parser: Parser, *pieces: str) -> Parts:
    parts = Parts()
    for piece in pieces:
        parts.extend(parser.feed(piece))
    parts.extend(parser.flush())
    return parts


def calls_of(parts: Parts) -> list[tuple[str, str]]:
    """(name, arguments) of each call, put together from its pieces."""
    names = {call.index: call.name for call in parts.calls if call.name is not None}
    return [
        (name, "".join(call.arguments for call in parts.calls if call.index == index))
        for index, name in names.items()
    ]


CALLS: list[tuple[CallFormat, str, str, int]] = [
    (HERMES, '<tool_call>\n{"name": "add", "arguments": %s}\n</tool_call>', "", 1),
    (HERMES, 'Well:\n\n<tool_call>{"name":"add","arguments":%s}</tool_call>', "Well:", 1),
    (HERMES, '<tool_call>{"arguments": %s, "name": "add"}</tool_call>', "", 1),
    (HERMES, '<tool_call>{"name": "add", "arguments": %s}', "", 1),
    (
        HERMES,
        '<tool_call>\n{"name": "add", "arguments": %s}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": %s}\n</tool_call>\nDone.',
        *("Done.", 2),
    ),
    (LLAMA3, '{"name": "add", "parameters": %s}', "", 1),
    (LLAMA3, '<|python_tag|>{"name": "add", "parameters": %s}', "", 1),
    (LLAMA3, '{"name": "add", "parameters": %s}; {"name": "add", "parameters": %s}', "", 2),
    (LLAMA3, '{"type": "function", "name": "add", "parameters": %s}', "", 1),
    (MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": %s}]', "", 1),
    (
        MISTRAL,
        'Yes.[TOOL_CALLS][{"name": "add", "arguments": %s}, {"name": "add", "arguments": %s}]',
        *("Yes.", 2),
    ),
    (MISTRAL_ARGS, "[TOOL_CALLS]add[ARGS]%s", "", 1),
    (MISTRAL_ARGS, "[TOOL_CALLS]add%s[TOOL_CALLS]add[CALL_ID]abc123XYZ[ARGS]%s", "", 2),
]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_name_of_a_tool_may_have_dots(form: CallFormat) -> None:
    """What a grammar made one format write was content for its parser, others waited for the end.

    So the name and a part of the arguments are told before the call is whole.
    """
    parser = CallParser(form, frozenset({"math.add"}))
    parts = parser.feed(form.prefix + form.head % "math.add" + '{"n": ')
    assert calls_of(parts) == [("math.add", '{"n": ')]


@pytest.mark.parametrize(("form", "text", "content", "num_calls"), CALLS)
def test_calls_are_found_and_their_signs_are_not_shown(
    form: CallFormat, text: str, content: str, num_calls: int
) -> None:
    parts = read(CallParser(form, NAMES), text.replace("%s", ARGUMENTS))
    assert parts.text == content
    assert [name for name, _ in calls_of(parts)] == ["add"] * num_calls
    assert [json.loads(arguments) for _, arguments in calls_of(parts)] == (
        [json.loads(ARGUMENTS)] * num_calls
    )


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "No tools here: {} <tool> [TOOL_CALLS]"),
        (HERMES, "a \n<tool_call> but no call"),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "add"}</tool_call>'),
        (HERMES, '<tool_call>{"name": 1, "arguments": {}}</tool_call>'),
        (HERMES, "ends with <tool_c"),
        (HERMES, 'cut <tool_call>\n{"name": "ad'),
        (LLAMA3, '{"city": "Brno"}'),
        (LLAMA3, 'The object {"name": "add", "parameters": {}} is no call here.'),
        (LLAMA3, "  \n"),
        (MISTRAL, "[TOOL_CALLS] is how it begins"),
        (MISTRAL_ARGS, "[TOOL_CALLS]unknown[ARGS]{}"),
    ],
)
def test_what_is_no_call_stays_as_it_was_written(form: CallFormat, text: str) -> None:
    for pieces in ((text,), tuple(text)):
        parts = read(CallParser(form, NAMES), *pieces)
        assert (parts.text, parts.calls) == (text, [])


def test_object_is_scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token had it scanned from its beginning: an answer of 70,000 letters took 45 s of the
    process that serves all others.
    """
    scanned: list[str] = []

    class Scanner(ObjectScanner):
        def end_of(self, text: str) -> int | None:
            scanned.append(text)
            return super().end_of(text)

    monkeypatch.setattr(calls, "ObjectScanner", Scanner)
    text = '{"cities": ["Plzeň", "Brno"]}'
    assert read(CallParser(LLAMA3, NAMES), *text).text == text
    assert "".join(scanned) == text


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = CallParser(HERMES, NAMES)
    assert not parser.feed('<tool_call>{"name": "get_wea').calls
    (begin,) = parser.feed('ther", "arguments": {').calls[:1]
    assert (begin.index, begin.name, begin.arguments) == (0, "get_weather", "")
    assert [call.arguments for call in parser.feed('"city": "Br').calls] == ['"city": "Br']
    assert [call.arguments for call in parser.feed('no"}}</tool_call>').calls] == ['no"}']


@pytest.mark.parametrize(
    ("is_open", "text", "reasoning", "content"),
    [
        (False, "<think>\nHm, \n so.\n</think>\n\nYes.", "Hm, \n so.", "Yes."),
        (False, "\n<think></think>Yes.", "", "Yes."),
        (True, "Hm.</think>\nYes.", "Hm.", "Yes."),
        (True, "Hm, it goes on </thin", "Hm, it goes on </thin", ""),
        (False, " Yes, <think> is a word.", "", " Yes, <think> is a word."),
        (False, "<thi", "", "<thi"),
    ],
)
def test_reasoning_is_split_off(is_open: bool, text: str, reasoning: str, content: str) -> None:
    for pieces in ((text,), tuple(text)):
        parts = read(ReasoningParser(is_open=is_open), *pieces)
        assert (parts.reasoning, parts.text) == (reasoning, content)


WORDS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "["),
    *("]", '{"name": "add", "arguments": ', '{"a": "}"}', "{", "}", '"', "\\", "\n", " ", ";"),
    *("add", "text", "<", "<|python_tag|>", '{"arguments": {}, "name": "add"}', ", "),
]


@given(
    st.lists(st.sampled_from(WORDS), max_size=12).map("".join),
    st.lists(st.integers(0, 100), max_size=8),
    st.sampled_from(sorted(FORMATS)),
    st.booleans(),
)
@example(
    'x\n<tool_call>{"name": "add", "arguments": {"a": "}"}} \n</tool_call>', [2], "hermes", False
)
def test_parsers_do_not_see_how_a_text_was_cut(
    text: str, cuts: list[int], form: str, is_open: bool
) -> None:
    """So an answer resumed at any token says what the undisturbed one says."""

    def parser() -> Chain:
        return Chain([ReasoningParser(is_open=is_open), CallParser(FORMATS[form], NAMES)])

    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole, cut, letters = read(parser(), text), read(parser(), *pieces), read(parser(), *text)
    assert (whole.text, whole.reasoning) == (cut.text, cut.reasoning)
    assert (whole.text, whole.reasoning) == (letters.text, letters.reasoning)
    assert calls_of(whole) == calls_of(cut) == calls_of(letters)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ tools }} <tool_call>", HERMES),
        ("{{ messages }}", HERMES),
        ('<|python_tag|> {"name": function name, "parameters": …}', LLAMA3),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS] [{", MISTRAL),
        ("[TOOL_CALLS]{{ name }}[ARGS]", MISTRAL_ARGS),
    ],
)
def test_template_shows_how_its_model_writes_calls(template: str, form: CallFormat) -> None:
    assert format_of(template) is form
