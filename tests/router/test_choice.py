import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.choice import Wish, choose, draw_revision
from openinference_router.group import Group, look_ahead
from openinference_router.wire import LoadReport, RoutedGroup


def group(name: str, *, weight=100, revision="r1", state="Active", in_flight=0, **load) -> Group:
    """A group after one report, with `in_flight` requests of ours."""
    made = Group(RoutedGroup(name, revision, "http://engine:8000", state, weight))
    made.in_flight = in_flight
    made.report(LoadReport(**{"ready": True, "seats": 4, "resume_key": "k", **load}), now=0.0)
    return made


@pytest.mark.parametrize(
    ("groups", "chosen"),
    [
        pytest.param([], None, id="no groups"),
        pytest.param([group("a", ready=False)], None, id="not ready"),
        pytest.param([group("a", draining=True)], None, id="the engine drains"),
        pytest.param([group("a", state="Draining")], None, id="the operator drains it"),
        pytest.param([group("a", in_flight=5)], None, id="seats and look-ahead are taken"),
        pytest.param([group("a", running=4, waiting=1)], None, id="taken by other routers"),
        pytest.param([group("a", in_flight=2), group("b", in_flight=1)], "b", id="fewer inside"),
        pytest.param([group("a", running=2), group("b", in_flight=1)], "b", id="others count"),
        pytest.param([group("b"), group("a")], "a", id="equal ones in order of name"),
        pytest.param(
            [
                group("a", in_flight=2, decode_tokens_per_second=400, resume_key="fast"),
                group("b", in_flight=1, decode_tokens_per_second=100, resume_key="slow"),
            ],
            "a",
            id="a faster kind of replica takes more",
        ),
        pytest.param(
            [
                group("a", in_flight=2, decode_tokens_per_second=400),
                group("b", in_flight=1, decode_tokens_per_second=100),
            ],
            "b",
            id="equal replicas are equally fast whatever they measured last",
        ),
        pytest.param(
            [
                group("a", queued_tokens=4000, prefill_tokens_per_second=200),
                group("b", in_flight=1, decode_tokens_per_second=50),
            ],
            "b",
            id="a long prompt in line is work too",
        ),
    ],
)
def test_the_group_with_the_least_work_is_chosen(groups, chosen):
    result = choose(groups, Wish())
    assert (result and result.id) == chosen


def test_a_group_that_failed_the_request_is_taken_only_when_alone():
    idle, busy = group("idle"), group("busy", in_flight=4)
    assert choose([idle, busy], Wish(avoid=frozenset({"idle"}))) is busy
    assert choose([idle], Wish(avoid=frozenset({"idle"}))) is idle


def test_a_cut_stream_goes_only_where_the_same_tokens_are_drawn():
    other, same = group("other", resume_key="x"), group("same", in_flight=4)
    assert choose([other, same], Wish(resume_key="k")) is same
    assert choose([other], Wish(resume_key="k")) is None


def test_ejection_ends_with_a_report_after_its_pause_and_grows():
    broken = group("a")
    report = LoadReport(ready=True)
    broken.failed(now=10.0)
    broken.failed(now=10.0)  # twenty streams that break together are one failure
    broken.report(report, now=10.9)
    assert not broken.is_admitted
    broken.report(report, now=11.0)
    assert broken.is_admitted
    broken.failed(now=12.0)
    broken.report(report, now=13.9)
    assert not broken.is_admitted
    broken.report(report, now=14.0)
    assert broken.is_admitted


def test_a_new_load_connection_forgives():
    broken = group("a")
    broken.failed(now=10.0)
    broken.connected()
    assert broken.is_admitted


DRAWS = [n / 1000 for n in range(1000)]


def test_weights_share_requests_between_revisions():
    groups = [group("old", weight=90), group("new", weight=10, revision="r2")]
    chosen = [choose(groups, Wish(draw=draw)).id for draw in DRAWS]
    assert chosen.count("new") == 100


@pytest.mark.parametrize(
    ("old", "new", "share"), [(90, 10, 0.1), (50, 50, 0.5), (100, 0, 0.0), (0, 100, 1.0)]
)
def test_shares_hold_whatever_the_load_is(old, new, share):
    """A share is exact: even while its groups are full, others get none of it."""
    groups = [group("old", weight=old, in_flight=2), group("new", weight=new, revision="r2")]
    chosen = [choose(groups, Wish(draw=draw)).id for draw in DRAWS]
    assert chosen.count("new") == share * len(DRAWS)
    groups[0].in_flight = 5
    held = [draw for draw in DRAWS if choose(groups, Wish(draw=draw)) is None]
    assert len(held) == len(DRAWS) - chosen.count("new")


def test_a_share_is_that_of_all_groups_of_a_revision():
    old = [group(f"old{number}", weight=30) for number in range(3)]
    groups = [*old, group("new", weight=10, revision="r2")]
    chosen = [choose(groups, Wish(draw=draw)).id for draw in DRAWS]
    assert chosen.count("new") == 100


@pytest.mark.parametrize("weight", [0, 100])
def test_full_weights_and_no_weights_leave_the_choice_to_the_load(weight):
    groups = [group("old", weight=weight), group("new", weight=weight, revision="r2")]
    assert draw_revision(groups, 0.5) is None


def test_a_cut_stream_goes_on_whatever_share_it_was_drawn_from():
    groups = [group("old", weight=100, in_flight=5), group("new", weight=0, revision="r2")]
    assert choose(groups, Wish(resume_key="k")).id == "new"


LOADS = st.builds(
    dict,
    in_flight=st.integers(0, 12),
    seats=st.integers(1, 9),
    running=st.integers(0, 9),
    waiting=st.integers(0, 3),
    queued_tokens=st.integers(0, 10_000),
    ready=st.booleans(),
    draining=st.booleans(),
    weight=st.sampled_from([0, 10, 100]),
    revision=st.sampled_from(["r1", "r2"]),
    resume_key=st.sampled_from(["k", "x"]),
    prefill_tokens_per_second=st.sampled_from([0.0, 100.0]),
    decode_tokens_per_second=st.sampled_from([0.0, 50.0, 100.0]),
)
WISHES = st.builds(
    Wish,
    draw=st.floats(0, 1, exclude_max=True),
    resume_key=st.sampled_from([None, "k", "x"]),
    avoid=st.frozensets(st.sampled_from(["g0", "g1", "g2"])),
)


@given(st.lists(LOADS, max_size=5), WISHES)
def test_a_choice_has_room_and_a_request_is_held_only_when_nobody_has(loads, wish):
    groups = [group(f"g{number}", **load) for number, load in enumerate(loads)]
    chosen = choose(groups, wish)
    able = [
        one
        for one in groups
        if one.is_admitted
        and one.occupancy < one.load.seats + look_ahead(one.load.seats)
        and wish.resume_key in (None, one.resume_key)
    ]
    drawn = draw_revision([one for one in groups if one.is_admitted], wish.draw)
    if wish.resume_key is None and drawn is not None:
        able = [one for one in able if one.routed.revision == drawn]
    assert (chosen in able) if able else (chosen is None)
