"""What may happen to the model cluster: stormy histories, and the calm behind them."""

from hypothesis import strategies as st
from openinference_operator import names
from openinference_operator.canary import Verdict
from openinference_operator.groups import group_state
from openinference_operator.operations import Annotate, Create
from openinference_operator.rollout import Phase, bounds

ENGINES = st.sampled_from([{}, {"maxSequences": 2}, {"maxSequences": 3}, {"image": "engine:2"}])
CANARY = {
    "strategy": "Canary",
    "canary": {
        "steps": [{"weight": 10, "pause": "30s"}, {"weight": 60, "pause": "30s"}],
        "golden": [{"prompt": "2+2?", "expect": "4"}],
    },
}
ROLLOUTS = st.sampled_from(
    [
        {"maxSurge": 1, "maxUnavailable": 0},
        {"maxSurge": 0, "maxUnavailable": 1},
        {"maxSurge": "50%", "maxUnavailable": "50%"},
        {"maxSurge": 3, "maxUnavailable": 2},
        {"maxSurge": 0, "maxUnavailable": "100%"},
        {"paused": True},
        CANARY,
        CANARY | {"maxSurge": 2, "maxUnavailable": 1},
        CANARY | {"paused": True},
    ]
)
VERDICTS = st.sampled_from([Verdict(), Verdict(missing="requests"), Verdict(failed="errors")])
EVENTS = st.one_of(
    st.tuples(st.just("reconcile"), st.one_of(st.none(), st.integers(0, 4))),
    st.tuples(st.just("start"), st.integers(0, 5)),
    st.tuples(st.just("break"), st.integers(0, 5)),
    st.tuples(st.just("crash"), st.integers(0, 5)),
    st.tuples(st.just("time passes"), st.sampled_from([60, 700, 2000])),
    st.tuples(st.just("stop being ready"), st.integers(0, 5)),
    st.tuples(st.just("kubelet restarts"), st.none()),
    st.tuples(st.just("lose node"), st.integers(0, 5)),
    st.tuples(st.just("end"), st.none()),
    st.tuples(st.just("routers read"), st.integers(0, 2)),
    st.tuples(st.just("routers flap"), st.integers(0, 1)),
    st.tuples(st.just("send"), st.none()),
    st.tuples(st.just("finish"), st.none()),
    st.tuples(st.just("engine"), ENGINES),
    st.tuples(st.just("rollout"), ROLLOUTS),
    st.tuples(st.just("verdict"), VERDICTS),
    st.tuples(st.just("golden"), st.sampled_from(["", "answered wrong"])),
    st.tuples(st.just("golden answers"), st.booleans()),
    st.tuples(st.just("replicas"), st.integers(0, 4)),
)
HISTORIES = st.lists(EVENTS, max_size=40)


def happen(world, event, argument):
    groups = sorted(world.groups)
    match event:
        case "reconcile":
            reconcile_within_bounds(world, crash_after=argument)
        case "start":
            world.start_pods(groups[argument : argument + 1])
        case "break":
            world.broken |= set(groups[argument : argument + 1])
            world.ready -= world.broken
        case "crash":
            world.restarts = argument
        case "time passes":
            world.now += argument
        case "stop being ready":
            world.ready -= set(groups[argument : argument + 1])
        case "kubelet restarts":
            world.started.clear()
            world.ready.clear()
        case "lose node":
            world.lose_nodes(groups[argument : argument + 1])
        case "end":
            world.end_pods()
        case "routers read":
            world.routers_read(world.routers[:argument])
        case "routers flap":
            world.routers[argument].is_ready = not world.routers[argument].is_ready
        case "send":
            world.send_requests()
        case "finish":
            world.finish_requests()
        case "engine":
            world.change(engine=argument)
        case "rollout":
            world.change(rollout=argument)
        case "verdict":
            world.verdict = argument
        case "golden":
            world.golden_failure = argument
        case "golden answers":
            world.answers_golden = argument
        case "replicas":
            world.change(replicas=argument)


def reconcile_within_bounds(world, crash_after):
    """Perform a plan operation by operation and check the two promises after each."""
    limits = bounds(world.parsed.rollout, world.replicas)
    for operation in world.plan().operations[:crash_after]:
        existing, routable = existing_groups(world), routable_groups(world)
        world.perform(operation)
        match operation:
            case Create({"kind": "StatefulSet"}):
                assert existing_groups(world) <= limits.replicas + limits.max_surge
            case Annotate(_, {names.ANNOTATION_DRAINING_SINCE: _}):
                assert routable_groups(world) >= min(routable, limits.floor)
            case _:
                assert existing_groups(world) <= existing


def states(world):
    timeout = world.parsed.rollout.drain_timeout_seconds
    return [group_state(group, timeout, world.now) for group in world.observe().groups]


def existing_groups(world):
    return sum(state.phase is not Phase.LOST for state in states(world))


def routable_groups(world):
    return sum(state.phase is Phase.ROUTABLE for state in states(world))


def become_calm(world):
    """Everything works again: routers and nodes are up, and what was broken can start."""
    for router in world.routers:
        router.is_ready = True
    world.broken.clear()
    world.lost.clear()
    world.verdict, world.golden_failure, world.answers_golden = Verdict(), "", True
    world.change(rollout=world.service["spec"]["rollout"] | {"paused": False})
