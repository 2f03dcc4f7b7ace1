import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.progress import Progress, split_internal


def chunk(delta: dict, token_ids: list[int] | None = None, **extra) -> bytes:
    fields = {
        "id": "chatcmpl-1",
        "created": 1767225600,
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        **extra,
    }
    if token_ids is not None:
        fields["openinference"] = {"token_ids": {"0": token_ids}}
    return json.dumps(fields).encode()


FIELDS = st.sampled_from(["id", "openinference", 'a,"openinference":'])
IDS = st.lists(st.integers(0, 9), max_size=3)
ROLE = chunk({"role": "assistant", "content": ""})


def test_the_clients_stream_holds_no_internal_field():
    progress = Progress(tracks_tokens=True)
    released = progress.absorb([ROLE]) + progress.absorb([chunk({"content": "Hi"}, [5])])
    events = [json.loads(line[6:]) for line in released.split(b"\n\n") if line]
    assert [event["choices"][0]["delta"].get("content") for event in events] == ["", "Hi"]
    assert all("openinference" not in event for event in events)


def test_nothing_is_said_before_the_first_token():
    progress = Progress(tracks_tokens=True)
    assert progress.absorb([ROLE]) == b""
    progress.restart()
    assert progress.internal() == {"stream_token_ids": True}
    released = progress.absorb([ROLE]) + progress.absorb([chunk({"content": "Hi"}, [5])])
    assert released.count(b"assistant") == 1


def test_a_cut_stream_tells_the_next_engine_all_ids_and_who_it_is():
    progress = Progress(tracks_tokens=True)
    for data in (ROLE, chunk({"content": "Hi"}, [5]), chunk({"content": " there"}, [6, 7])):
        progress.absorb([data])
    progress.restart()
    progress.absorb([chunk({"content": "!"}, [8])])
    assert progress.internal() == {
        "stream_token_ids": True,
        "resume": {
            "id": "chatcmpl-1",
            "created": 1767225600,
            "token_ids": {"0": [5, 6, 7, 8]},
        },
    }


def test_usage_after_a_resume_tells_what_the_engine_that_began_had_cached():
    progress = Progress(tracks_tokens=True)
    for ids, cached in ([5], {"cached_tokens": 16}), ([6], {}):
        internal = {"token_ids": {"0": ids}} | cached
        progress.absorb([chunk({"content": "x"}, openinference=internal)])
    progress.restart()
    assert progress.internal()["resume"]["cached_tokens"] == 16


def test_what_was_cached_of_several_prompts_is_added_up():
    progress = Progress(tracks_tokens=True)
    for choice, cached in ("0", {"cached_tokens": 16}), ("0", {}), ("1", {"cached_tokens": 32}):
        internal = {"token_ids": {choice: [5]}} | cached
        progress.absorb([chunk({"content": "x"}, openinference=internal)])
    progress.restart()
    assert progress.internal()["resume"]["cached_tokens"] == 48


def test_choices_are_counted_apart():
    progress = Progress(tracks_tokens=True)
    for ids in ({"0": [1]}, {"1": [9]}, {"0": [2]}):
        progress.absorb([chunk({"content": "x"}, openinference={"token_ids": ids})])
    assert progress.internal()["resume"]["token_ids"] == {"0": [1, 2], "1": [9]}


def test_the_end_of_a_choice_is_told_once():
    """An engine that resumes repeats it: the old one may have died before it was sent."""
    progress = Progress(tracks_tokens=True)
    end = chunk({}, [5]).replace(b'"finish_reason": null', b'"finish_reason": "stop"')
    assert b"stop" in progress.absorb([end])
    progress.restart()
    assert progress.absorb([end]) == b""
    assert progress.internal()["resume"]["token_ids"] == {"0": [5]}


def test_usage_is_told_once():
    progress = Progress(tracks_tokens=True)
    progress.absorb([chunk({"content": "Hi"}, [5])])
    usage = json.dumps({"id": "x", "created": 1, "choices": [], "usage": {}}).encode()
    assert b"usage" in progress.absorb([usage])
    progress.restart()
    assert progress.absorb([usage]) == b""


def test_a_stream_is_complete_with_done_and_not_before():
    progress = Progress(tracks_tokens=True)
    progress.absorb([chunk({"content": "Hi"}, [5])])
    assert not progress.is_complete
    assert progress.absorb([b"[DONE]"]) == b"data: [DONE]\n\n"
    assert progress.is_complete


def test_without_a_token_events_pass_at_once_and_untouched():
    progress = Progress(tracks_tokens=False)
    assert progress.absorb([ROLE]) == b"data: " + ROLE + b"\n\n"
    assert progress.internal() is None


def test_an_engine_that_gives_up_a_stream_has_failed_it():
    progress = Progress(tracks_tokens=True)
    error = {"message": "the engine core has ended", "type": "service_unavailable_error"}
    assert progress.absorb([json.dumps({"error": error}).encode()]) == b""
    assert "core has ended" in progress.failure.reason


def test_any_other_error_is_the_answer():
    progress = Progress(tracks_tokens=True)
    progress.absorb([ROLE])
    data = json.dumps({"error": {"message": "no", "type": "invalid_request_error"}}).encode()
    assert progress.absorb([data]).endswith(data + b"\n\n")
    assert progress.is_complete
    assert not progress.has_failed


def test_a_failure_inside_the_engine_is_the_answer_and_a_failure():
    progress = Progress(tracks_tokens=True)
    data = json.dumps({"error": {"message": "no", "type": "server_error"}}).encode()
    assert progress.absorb([data]).endswith(data + b"\n\n")
    assert progress.is_complete
    assert progress.has_failed


@pytest.mark.parametrize(
    "data",
    [b"rubbish", b"[]", b"{}", b"3", b'{"id": 3, "created": 1, "choices": []}', b"[" * 100_000],
)
def test_rubbish_is_a_failed_attempt(data):
    progress = Progress(tracks_tokens=True)
    assert progress.absorb([data]) == b""
    assert progress.failure


def test_what_came_before_rubbish_is_not_lost():
    progress = Progress(tracks_tokens=True)
    assert b"Hi" in progress.absorb([ROLE, chunk({"content": "Hi"}, [5]), b"%%%"])
    assert progress.failure
    progress.restart()
    assert progress.internal()["resume"]["token_ids"] == {"0": [5]}


JSON = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(['x,"openinference":{}}', "openinference"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(FIELDS, JSON, max_size=4), st.dictionaries(st.just("0"), IDS), st.data())
def test_the_internal_field_is_cut_out_wherever_it_stands(fields, token_ids, data):
    """Compact, as our engine writes it, the cut is a shortcut; it must not differ."""
    fields.pop("openinference", None)
    place = data.draw(st.integers(0, len(fields)))
    items = list(fields.items())
    items.insert(place, ("openinference", {"token_ids": token_ids}))
    compact = msgspec.json.encode(dict(items))
    written = data.draw(st.sampled_from([compact, msgspec.json.format(compact, indent=1)]))
    seen, internal = split_internal(written)
    assert json.loads(seen) == fields
    assert internal.token_ids == token_ids
