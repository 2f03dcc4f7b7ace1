"""The shape of a request's answers: how their text is read, and the grammar they are held to."""

from __future__ import annotations

from openinference_engine.parsers.reading import Reading
from openinference_engine.parsers.reasoning import BEGIN
from openinference_engine.server.front import Front
from openinference_engine.server.schema import ChatRequest, GenerationRequest
from openinference_engine.server.structure import (
    Structure,
    any_of,
    behind_reasoning,
    check_end,
    structure_of,
)
from openinference_engine.server.tools import ToolUse

_SIGN_TOKENS = 16  # at most; what opens the reasoning stands at the end of the prompt


def reading_of(
    front: Front, request: GenerationRequest, tools: ToolUse | None, prompt_ids: list[int]
) -> Reading:
    has_reasoning = isinstance(request, ChatRequest) and front.has_reasoning
    end = front.tokenizer.decode(prompt_ids[-_SIGN_TOKENS:], skips_special_tokens=False)
    return Reading(
        stop=request.stop_strings,
        shows_stop=request.include_stop_str_in_output,
        shows_special_tokens=not request.skip_special_tokens,
        continues_prompt=not isinstance(request, ChatRequest) or request.continue_final_message,
        has_reasoning=has_reasoning,
        begins_with_reasoning=has_reasoning and end.rstrip().endswith(BEGIN),
        call_format=tools.form if tools else None,
        tool_names=tools.names if tools else frozenset(),
    )


def held_to(
    request: GenerationRequest, tools: ToolUse | None, reading: Reading
) -> Structure | None:
    """What the answer must look like, or None. Raises RequestError if fields contradict."""
    structure = _calls_or(structure_of(request), tools)
    check_end(request, structure)
    if structure is None or not reading.has_reasoning:
        return structure
    form = behind_reasoning(structure.format, is_open=reading.begins_with_reasoning)
    return Structure(structure.field, form)


def _calls_or(structure: Structure | None, tools: ToolUse | None) -> Structure | None:
    if tools is None:
        return structure
    if structure is not None and not tools.must_call:
        return Structure(structure.field, any_of(structure.format, tools.calls_format))
    if tools.wants_grammar:
        return Structure("tools", tools.grammar_format)
    return structure
