"""Where a prompt's beginning is drawn to: stable, shared without state, bounded."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.affinity import MAX_SHARE, of_prompt, of_session
from openinference_router.choice import Wish, choose
from openinference_router.group import Group
from openinference_router.wire import LoadReport, RoutedGroup

KEYS = [f"session {number}" for number in range(300)]


def group(name: str, *, in_flight: int = 0, **load) -> Group:
    made = Group(RoutedGroup(name, "r1", "http://engine:8000", "Active"))
    made.in_flight = in_flight
    made.report(LoadReport(**{"ready": True, "seats": 10_000, **load}), now=0.0)
    return made


def idle(*names: str) -> list[Group]:
    return [group(name) for name in names]


def homes(groups: list[Group]) -> dict[str, str]:
    return {key: choose(groups, Wish(affinity=of_session(key))).id for key in KEYS}


NAMES = st.lists(st.integers(0, 99).map("g{}".format), min_size=2, max_size=8, unique=True)


@given(NAMES, st.randoms())
def test_every_router_pod_makes_the_same_choice(names, random):
    shuffled = random.sample(names, len(names))
    assert homes(idle(*names)) == homes(idle(*shuffled))


@given(NAMES, st.data())
def test_a_group_that_leaves_moves_only_what_was_its_own(names, data):
    gone = data.draw(st.sampled_from(names))
    before, after = homes(idle(*names)), homes(idle(*(name for name in names if name != gone)))
    assert {key for key in KEYS if before[key] != after[key]} == {
        key for key in KEYS if before[key] == gone
    }


def test_sessions_spread_over_all_groups():
    found = list(homes(idle("a", "b", "c", "d")).values())
    assert all(50 < found.count(name) < 100 for name in "abcd")


@given(st.lists(st.sampled_from(KEYS[:3]), min_size=1, max_size=60), st.integers(2, 6))
def test_no_group_is_loaded_beyond_its_share_however_popular_a_prompt_is(keys, num_groups):
    groups = idle(*(f"g{number}" for number in range(num_groups)))
    for key in keys:
        choose(groups, Wish(affinity=of_session(key))).in_flight += 1
    most = max(one.in_flight for one in groups)
    assert most <= math.ceil(MAX_SHARE * len(keys) / num_groups)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=6))
def test_a_session_waits_nowhere_beyond_the_share_whatever_the_loads_are(loads):
    groups = [group(f"g{number}", in_flight=load) for number, load in enumerate(loads)]
    chosen = choose(groups, Wish(affinity=of_session("s")))
    assert chosen.in_flight + 1 <= math.ceil(MAX_SHARE * (sum(loads) + 1) / len(loads))


SPEEDS = {"prefill_tokens_per_second": 100.0, "decode_tokens_per_second": 128.0}


@pytest.mark.parametrize(
    ("prompt", "stays"),
    [
        pytest.param("x" * 40, False, id="ten tokens save a tenth of a second"),
        pytest.param("x" * 4000, True, id="a thousand tokens save ten seconds"),
    ],
)
def test_a_prompt_stays_at_home_while_that_saves_more_than_waiting_costs(prompt, stays):
    """At home there is one request more, which costs a second, and it is within its share."""
    affinity = of_prompt({"prompt": msgspec.Raw(msgspec.json.encode(prompt))})
    groups = idle("a", "b", "c")
    home = choose([group(one.id, **SPEEDS) for one in groups], Wish(affinity=affinity)).id
    loaded = [group(one.id, in_flight=10 + (one.id == home), **SPEEDS) for one in groups]
    assert (choose(loaded, Wish(affinity=affinity)).id == home) is stays


def prompt_key(**fields) -> bytes | None:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    affinity = of_prompt(raw)
    return affinity and affinity.key


def said(*texts: str) -> list[dict]:
    roles = ["system", "user", "assistant", "user"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


DOCUMENT = "A long document. " * 200


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        (said("be kind", "hello"), said("be kind", "hello", "hi", "how are you?"), True),
        (said("be kind", "hello"), said("be kind", "good day"), False),
        (said("be kind", "hello"), said("be rude", "hello"), False),
        (said("", DOCUMENT + "Who wrote it?"), said("", DOCUMENT + "When?"), True),
    ],
)
def test_a_conversation_is_known_by_its_opening(one, other, are_equal):
    assert (prompt_key(messages=one) == prompt_key(messages=other)) is are_equal


@pytest.mark.parametrize("fields", [{}, {"messages": "none"}, {"messages": [1]}, {"messages": []}])
def test_what_has_no_opening_is_drawn_nowhere(fields):
    assert prompt_key(**fields) is None
