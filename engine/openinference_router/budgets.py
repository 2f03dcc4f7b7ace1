"""Two budgets that keep trouble bounded: how long a request waits, how much is tried again.

Both are arithmetic over a `now` that is passed in.
"""

from dataclasses import dataclass

# The figures of Finagle's RetryBudget: a fifth of the requests, and ten a second.
RETRIES_PER_REQUEST = 0.2
RETRIES_PER_SECOND = 10.0
MIN_RETRY_BURST = 20


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds without any capacity, and seconds behind others."""

    cold: float
    contended: float

    def since(self, earlier: "Spent") -> "Spent":
        return Spent(self.cold - earlier.cold, self.contended - earlier.contended)


NOTHING_SPENT = Spent(0.0, 0.0)


class CapacityClock:
    """Two counters of one service that only grow, and one at a time.

    A waiting request compares them with their reading when it came. So a cold start never eats
    the contended budget, and a service that flaps cannot hold a request longer than both together.
    """

    def __init__(self, now: float) -> None:
        self.has_capacity = False
        self._changed_at = now
        self._spent = Spent(0.0, 0.0)

    def set(self, has_capacity: bool, now: float) -> None:
        if has_capacity != self.has_capacity:
            self._spent = self.read(now)
            self.has_capacity, self._changed_at = has_capacity, now

    def read(self, now: float) -> Spent:
        passed = now - self._changed_at
        if self.has_capacity:
            return Spent(self._spent.cold, self._spent.contended + passed)
        return Spent(self._spent.cold + passed, self._spent.contended)


class RetryBudget:
    """Retries that a service may spend: a burst, earned back by new requests and by time.

    The burst covers every open request twice, so that the loss of all replicas at once is within
    it; replicas that fail again and again are not.
    """

    def __init__(self, now: float) -> None:
        self._spent = 0.0
        self._updated_at = now

    def earn(self) -> None:
        """A new request pays in a fifth of a retry."""
        self._spent = max(0.0, self._spent - RETRIES_PER_REQUEST)

    def spend(self, open_requests: int, now: float) -> bool:
        """Take one retry; False when there is none left."""
        earned = (now - self._updated_at) * RETRIES_PER_SECOND
        self._spent = max(0.0, self._spent - earned)
        self._updated_at = now
        if self._spent + 1 > max(MIN_RETRY_BURST, 2 * open_requests):
            return False
        self._spent += 1
        return True
