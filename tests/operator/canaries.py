"""A canary in the model cluster, step by step."""

from openinference_operator.facts import Facts
from openinference_operator.status import build_status

CANARY = {
    "strategy": "Canary",
    "canary": {"steps": [{"weight": 25, "pause": "1m"}, {"weight": 50, "pause": "2m"}]},
}


def shares(world):
    """Percent of the requests by revision, as routers share them out by weight."""
    weights = {}
    for route in world.routers[0].routing["groups"]:
        if route["id"] in world.routable:
            weights[route["revision"]] = weights.get(route["revision"], 0) + route["weight"]
    return {
        revision: round(100 * sum_ / sum(weights.values())) for revision, sum_ in weights.items()
    }


def begin(make_world, replicas=4, **rollout):
    world = make_world(replicas=replicas, rollout=CANARY | rollout)
    world.settle()
    good = world.plan().course.revision
    world.change(engine={"maxSequences": 4})
    return world, good, world.plan().course.revision


def act(world, rounds=12):
    for _ in range(rounds):
        world.reconcile()
        world.everybody_acts()


def conditions(world):
    evidence = world.evidence()
    facts = Facts(world.parsed, world.observe(), world.plan(), None, world.now, evidence)
    return {entry["type"]: entry for entry in build_status(facts)["conditions"]}
