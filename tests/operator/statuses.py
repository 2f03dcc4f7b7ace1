"""What is said of a model cluster, and how the tests read it."""

from openinference_operator.facts import Facts
from openinference_operator.status import build_status


def status_of(world, decision=None):
    return build_status(Facts(world.parsed, world.observe(), world.plan(), decision, world.now))


def condition(status, kind):
    entry = next(entry for entry in status["conditions"] if entry["type"] == kind)
    return entry["status"], entry["reason"], entry["message"]
