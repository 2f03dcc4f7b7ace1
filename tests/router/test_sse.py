import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router import sse

LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).map(str.encode)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(LINES), st.lists(st.integers(min_value=0)), st.sampled_from([b"\n", b"\r\n"]))
def test_events_survive_any_cut_of_the_stream(events, places, line_break):
    stream = b"".join(map(sse.event, events)).replace(b"\n", line_break)
    splitter = sse.Splitter()
    seen = [data for chunk in cut(stream, places) for data in splitter.feed(chunk)]
    assert seen == events


@pytest.mark.parametrize(
    ("stream", "seen"),
    [
        (b": a comment\n\n", []),
        (b"event: load\ndata: {}\n\n", [b"{}"]),
        (b"data:tight\n\n", [b"tight"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: unfinished\n", []),
        (b"id: 7\nretry: 1\n\n", []),
    ],
)
def test_only_data_is_taken(stream, seen):
    assert list(sse.Splitter().feed(stream)) == seen


def test_an_event_without_end_is_refused_before_it_fills_the_memory():
    splitter = sse.Splitter()
    splitter.feed(b"x" * sse.MAX_EVENT_BYTES)
    with pytest.raises(ValueError, match="larger than"):
        splitter.feed(b"x")
