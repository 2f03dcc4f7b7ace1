"""Objects written past the API server's checks: a condition, and nobody else's trouble."""

import copy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openinference_operator.errors import SpecError
from openinference_operator.spec import parse

GOOD = {
    "suspend": False,
    "replicas": 2,
    "model": {"uri": "package://models/tiny.gguf", "name": "tiny"},
    "engine": {"maxSequences": 4, "maxModelLen": 64, "image": "engine:2"},
    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
    "autoscaling": {
        "minReplicas": 0,
        "maxReplicas": 3,
        "metrics": [
            {"type": "Queue", "target": {"averageValue": "4"}},
            {"type": "Latency", "latency": {"ttftP90": "2s"}},
        ],
        "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 9}]}},
    },
    "rollout": {
        "strategy": "Canary",
        "maxSurge": "25%",
        "canary": {
            "steps": [{"weight": 10, "pause": "1m"}],
            "analysis": [{"metric": "TTFT", "maxRatio": "1.5"}],
            "golden": [{"prompt": "2+2?", "expect": "4"}],
        },
    },
    "podTemplate": {"nodeSelector": {"a": "b"}, "env": [{"name": "A", "value": "b"}]},
    "router": {"queue": {"maxRequests": 9, "contendedTimeout": "9s"}},
}


def paths(value, path=()):
    """Every place in a document."""
    yield path
    members = value.items() if isinstance(value, dict) else ()
    members = enumerate(value) if isinstance(value, list) else members
    for key, member in members:
        yield from paths(member, (*path, key))


PLACES = sorted((path for path in paths(GOOD) if path), key=str)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
QUICK = settings(
    max_examples=2 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def error_of(raw):
    """What is said about an object; its path alone where it can be read."""
    try:
        parse(raw)
    except SpecError as error:
        return str(error)
    return "spec"


def spoilt(place, value):
    spec = copy.deepcopy(GOOD)
    inner = spec
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return spec


@QUICK
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_any_value_anywhere_is_read_or_named(raw_service, place, value):
    raw = raw_service()
    raw["spec"] = spoilt(place, value)
    assert error_of(raw).startswith("spec")


@QUICK
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_what_can_be_read_can_be_planned(make_world, place, value):
    world = make_world()
    world.service["spec"] = spoilt(place, value)
    if error_of(world.service) == "spec":
        assert world.plan().operations, "a service that is new gets its objects"


@QUICK
@given(spec=ANYTHING)
def test_a_bad_neighbour_disturbs_nobody(make_world, raw_service, spec):
    world = make_world(replicas=1)
    world.siblings = [raw_service(name="a-neighbour") | {"spec": spec}]
    world.settle()
    assert len(world.routable) == 1
