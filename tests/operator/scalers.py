"""Autoscalers and what they are told, in few words."""

from decimal import Decimal

from openinference_operator.pacing import Memory
from openinference_operator.scaling import Capacity, Demand, Lost, decide, queue_reading
from openinference_operator.scaling_spec import Autoscaling, Average, Policy, ScalingRules

FREELY = ScalingRules(0, "Max", (Policy("Percent", 100000, 15),), Decimal("0.1"))
LOST = Lost("nobody answers")


def autoscaling(up=FREELY, down=FREELY, minimum=1, maximum=10, target="4", idle_after=60):
    metrics = (Average("Queue", Decimal(target)),)
    return Autoscaling(minimum, maximum, 15, idle_after, metrics, up, down)


def evaluate(demand, current, rules=None, routable=None, seats=4, memory=None, now=1000.0):
    """One evaluation; the memory is that of a scaler that has seen nothing before."""
    capacity = Capacity(current, current if routable is None else routable, seats)
    rules = rules or autoscaling()
    return decide(rules, [read(demand)], demand, capacity, memory or Memory(()), now)


def read(demand):
    return demand if isinstance(demand, Lost) else queue_reading(demand)


def waiting(requests, running=0):
    return Demand(requests, running, "Prometheus")


def rules(*policies, window=0, select="Max"):
    given = policies or (Policy("Pods", 9, 60),)
    return ScalingRules(window, select, given, Decimal("0.1"))


def play(scaler, current, demands, interval=15.0, routable=None):
    """Evaluate a series of demands; return the number of replicas after each."""
    memory, now, history = Memory.begin(current, 0.0), 0.0, []
    for demand in demands:
        now += interval
        capacity = Capacity(current, current if routable is None else routable, 4)
        decision, memory = decide(scaler, [read(demand)], demand, capacity, memory, now)
        current = decision.desired
        history.append(current)
    return history
