"""Finds tool calls in the text of an answer, and passes their arguments on as they come.

Models write a call as a JSON object, or as a name with an object behind it, behind a sign of their
own (`formats`). What turns out to be no call is content, letter by letter as it was written.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import msgspec

from openinference_engine.parsers.formats import CallFormat
from openinference_engine.parsers.parts import CallDelta, Parts, split_held

_BLANKS = " \t\r\n"
# The usual order of the keys; then arguments are passed on before the object is whole.
_OBJECT_HEAD = re.compile(
    r'\{\s*"name"\s*:\s*"(?P<name>[\w.-]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_NAMED_HEAD = re.compile(r"(?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")
_NAMED_START = re.compile(r"([\w.-]+(\[[\w\]\[]*)?\s*)?")


class _Call(msgspec.Struct):
    name: str
    arguments: dict[str, msgspec.Raw] | str | None = None
    parameters: dict[str, msgspec.Raw] | str | None = None


class _State(Enum):
    START = auto()  # nothing yet but blanks
    TEXT = auto()
    HEAD = auto()  # behind a sign: a call may begin
    ARGUMENTS = auto()
    BEHIND = auto()  # a call has ended; signs, separators and further calls may follow


class CallParser:
    def __init__(self, form: CallFormat, names: frozenset[str]) -> None:
        """`names`: of the tools there are; what would call another one is content."""
        self.num_calls = 0
        self._form = form
        self._names = names
        self._state = _State.START
        self._held = ""
        self._sign = ""  # the sign before the call that is being read, should it be none
        self._scanner, self._num_scanned = ObjectScanner(), 0  # of the object that is held
        self._is_wrapped = False  # the arguments lie in an object whose end is still to come

    def feed(self, text: str) -> Parts:
        self._held += text
        parts = Parts()
        while self._step(parts):
            pass
        return parts

    def flush(self) -> Parts:
        held, self._held = self._held, ""
        is_text = self._state in (_State.START, _State.TEXT, _State.HEAD)
        return Parts(self._sign + held) if is_text else Parts()

    def _step(self, parts: Parts) -> bool:
        """Reads on as far as one state goes; False when more text is needed."""
        match self._state:
            case _State.START:
                return self._read_start()
            case _State.TEXT:
                return self._read_text(parts)
            case _State.HEAD:
                return self._read_head(parts)
            case _State.ARGUMENTS:
                return self._read_arguments(parts)
            case _State.BEHIND:
                return self._read_behind()

    def _read_start(self) -> bool:
        """Some models write calls without a sign, but only as the whole answer."""
        start = self._held.lstrip(_BLANKS)
        if not start:
            return False
        is_call = self._form.begins_bare and start.startswith("{")
        self._go_on(_State.HEAD if is_call else _State.TEXT, self._held)
        return True

    def _read_text(self, parts: Parts) -> bool:
        before, sign, rest = self._held.partition(self._form.begin)
        if sign:
            shown = before.rstrip()
            parts.text += shown
            self._sign = before[len(shown) :] + sign
            self._go_on(_State.HEAD, rest)
            return True
        shown, self._held = split_held(before, self._form.begin)
        parts.text += shown
        return False

    def _read_head(self, parts: Parts) -> bool:
        held = self._held.lstrip(_BLANKS + self._form.opening)
        self._is_wrapped = held.startswith("{")
        if head := (_OBJECT_HEAD if self._is_wrapped else _NAMED_HEAD).match(held):
            return self._begin_call(parts, head["name"], held[head.end() :])
        if self._is_wrapped:
            return self._read_object(parts, held)
        return False if _NAMED_START.fullmatch(held) else self._is_no_call(parts)

    def _begin_call(self, parts: Parts, name: str, rest: str) -> bool:
        if name not in self._names:
            return self._is_no_call(parts)
        parts.calls.append(CallDelta(self.num_calls, "", name))
        self._go_on(_State.ARGUMENTS, rest)
        return True

    def _read_object(self, parts: Parts, held: str) -> bool:
        """An object with its keys in another order is read when it is whole."""
        start, self._num_scanned = self._num_scanned, len(held)
        end_of_rest = self._scanner.end_of(held[start:])
        if end_of_rest is None:
            return False
        end = start + end_of_rest
        try:
            call = msgspec.json.decode(held[:end], type=_Call)
        except msgspec.DecodeError:
            return self._is_no_call(parts)
        arguments = call.parameters if call.arguments is None else call.arguments
        if arguments is None or call.name not in self._names:
            return self._is_no_call(parts)
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        parts.calls.append(CallDelta(self.num_calls, arguments, call.name))
        self._end_call(held[end:])
        return True

    def _is_no_call(self, parts: Parts) -> bool:
        parts.text += self._sign
        self._sign = ""
        self._go_on(_State.TEXT, self._held)
        return True

    def _read_arguments(self, parts: Parts) -> bool:
        end = self._scanner.end_of(self._held)
        piece = self._held if end is None else self._held[:end]
        if piece:
            parts.calls.append(CallDelta(self.num_calls, piece))
        if end is None:
            self._held = ""
            return False
        self._end_call(self._held[end:])
        return True

    def _end_call(self, rest: str) -> None:
        self.num_calls += 1
        self._sign = ""
        self._go_on(_State.BEHIND, rest)

    def _read_behind(self) -> bool:
        held = self._held.lstrip(_BLANKS)
        if self._is_wrapped and held.startswith("}"):
            self._is_wrapped = False
            held = held[1:].lstrip(_BLANKS)
        held = held.lstrip(_BLANKS + self._form.separators)
        end = self._form.end
        if end and held.startswith(end):
            held = held[len(end) :].lstrip(_BLANKS)
        self._held = held
        if not held or (end and end.startswith(held)) or self._form.begin.startswith(held):
            return False
        follows = self._form.separators and held.startswith("{")
        self._go_on(_State.HEAD if follows else _State.TEXT, held)
        return True

    def _go_on(self, state: _State, held: str) -> None:
        self._state, self._held = state, held
        self._scanner, self._num_scanned = ObjectScanner(), 0


class ObjectScanner:
    """Finds where a JSON object ends, over any number of pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def end_of(self, text: str) -> int | None:
        """The place behind the object's last brace, if it is in this piece."""
        for place, sign in enumerate(text):
            if self._is_in_string:
                self._read_string(sign)
            elif sign == '"':
                self._is_in_string = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return None

    def _read_string(self, sign: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif sign == "\\":
            self._is_escaped = True
        elif sign == '"':
            self._is_in_string = False
