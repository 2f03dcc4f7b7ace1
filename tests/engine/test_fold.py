"""The fold over token ids: stop strings, ends, and that a replay goes on exactly where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openinference_engine.fold import OutputFold, StopBuffer
from openinference_engine.parsers.reading import Reading
from openinference_engine.request import SamplingParams
from openinference_engine.tokenizer.tokenizer import Tokenizer, load_tokenizer
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint

END = 2


@pytest.fixture(scope="session")
def tokenizer(smollm2: GGUFCheckpoint, smollm2_path: Path) -> Tokenizer:
    return load_tokenizer(smollm2, smollm2_path)


def make_fold(tokenizer: Tokenizer, stop: tuple[str, ...] = (), **params: Any) -> OutputFold:
    given = {"seed": 0, "max_tokens": 100, "stop_token_ids": frozenset({END})} | params
    return OutputFold(tokenizer, SamplingParams(**given), Reading(stop))


def feed_text(fold: OutputFold, tokenizer: Tokenizer, text: str) -> list[str]:
    return [fold.feed(token_id).parts.text for token_id in tokenizer.encode(text)]


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.integers(0, 6),
)
@example(["a", "b"], ["ab"], 1)
@example(["ab", "c", "d"], ["abcd", "b"], 1)
def test_stop_buffer_shows_the_text_up_to_the_first_stop_behind_the_first_pieces(
    pieces: list[str], stops: list[str], num_first: int
) -> None:
    """A stop string that began in the first `min_tokens` tokens and ended behind was not found."""
    buffer = StopBuffer(tuple(stops))
    shown = "".join(
        buffer.feed(piece, may_end=number >= num_first) for number, piece in enumerate(pieces)
    )
    is_hit = buffer.is_hit
    shown += buffer.flush()
    whole = "".join(pieces)
    end_of_first = len("".join(pieces[:num_first]))
    for number in range(num_first, len(pieces)):  # a stop ends the text as soon as it is whole
        so_far = "".join(pieces[: number + 1])
        places = [
            place
            for stop in stops
            for place in range(len(so_far))
            if so_far.startswith(stop, place) and place + len(stop) > end_of_first
        ]
        if places:
            assert (is_hit, shown) == (True, whole[: min(places)])
            return
    assert (is_hit, shown) == (False, whole)


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    buffer = StopBuffer(("END",))
    assert [buffer.feed(piece) for piece in ("on E", "N", "ter", "E")] == ["on ", "", "ENter", ""]
    assert buffer.flush() == "E"


def test_stop_string_is_shown_where_it_was_asked_for() -> None:
    buffer = StopBuffer(("END", "ENDE"), shows_stop=True)
    assert buffer.feed("the END of it") == "the END"


def test_stop_token_is_not_shown_unless_asked_for(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("one two")
    params = SamplingParams(0, 9, stop_token_ids=frozenset({token_ids[-1]}))
    for shows_stop, text in ((False, "one"), (True, "one two")):
        fold = OutputFold(tokenizer, params, Reading(shows_stop=shows_stop))
        assert "".join(fold.feed(token_id).parts.text for token_id in token_ids) == text
        assert fold.finish_reason == "stop"


def test_stop_string_across_tokens_ends_the_answer(tokenizer: Tokenizer) -> None:
    fold = make_fold(tokenizer, ("world!",))
    assert "".join(feed_text(fold, tokenizer, "Hello, wonderful world! Bye")) == "Hello, wonderful "
    assert fold.finish_reason == "stop"
    assert fold.num_tokens < len(tokenizer.encode("Hello, wonderful world! Bye"))


def test_stop_string_waits_for_the_fewest_tokens(tokenizer: Tokenizer) -> None:
    """It ended an answer before `min_tokens`, which stop tokens do not."""
    fold = make_fold(tokenizer, ("two",), min_tokens=4)
    text = "one two three four five two six"
    assert "".join(feed_text(fold, tokenizer, text)) == "one two three four five "
    assert fold.finish_reason == "stop"


def test_stop_string_may_begin_within_the_fewest_tokens(tokenizer: Tokenizer) -> None:
    """What shows of it is told by its end; until then it is held back."""
    fold = make_fold(tokenizer, ("two three",), min_tokens=2)
    assert feed_text(fold, tokenizer, "one two three four")[:3] == ["one", " ", ""]
    assert (fold.finish_reason, fold.num_tokens) == ("stop", 3)


@pytest.mark.parametrize(
    ("params", "reason", "num_tokens"),
    [
        ({}, "stop", 4),
        ({"max_tokens": 3}, "length", 3),
        ({"stop_token_ids": frozenset()}, None, 5),
        ({"min_tokens": 4}, None, 5),
    ],
)
def test_answer_ends_by_token_or_length(
    tokenizer: Tokenizer, params: dict[str, Any], reason: str | None, num_tokens: int
) -> None:
    fold = make_fold(tokenizer, **params)
    for token_id in (50, 51, 52, END, 53):
        fold.feed(token_id)
    assert (fold.finish_reason, fold.num_tokens) == (reason, num_tokens)


def test_held_text_is_shown_when_the_answer_ends_by_length(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("the EN")
    fold = make_fold(tokenizer, ("END",), max_tokens=len(token_ids))
    assert "".join(fold.feed(token_id).parts.text for token_id in token_ids) == "the EN"


@given(
    st.lists(st.integers(3, 49151), max_size=30),
    st.integers(0, 30),
    st.text("etaoin ", max_size=3),
    st.integers(0, 5),
)
@settings(max_examples=2 * settings.default.max_examples)
def test_resumed_fold_goes_on_exactly_where_it_was(
    tokenizer: Tokenizer, token_ids: list[int], cut: int, stop: str, min_tokens: int
) -> None:
    stops = (stop,) if stop else ()
    whole = make_fold(tokenizer, stops, min_tokens=min_tokens)
    resumed = make_fold(tokenizer, stops, min_tokens=min_tokens)
    expected = [whole.feed(token_id) for token_id in token_ids]
    resumed.replay(token_ids[:cut])
    assert [resumed.feed(token_id) for token_id in token_ids[cut:]] == expected[cut:]
    assert (resumed.num_tokens, resumed.finish_reason) == (whole.num_tokens, whole.finish_reason)
