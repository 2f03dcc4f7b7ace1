"""One request under way: what it is, how far it came, what befell it."""

from dataclasses import dataclass

from openinference_router.affinity import BYTES_PER_TOKEN
from openinference_router.budgets import Spent
from openinference_router.choice import Wish
from openinference_router.exchange import Exchange
from openinference_router.meter import Stopwatch
from openinference_router.progress import Progress
from openinference_router.reply import Reply
from openinference_router.service import Service
from openinference_router.trace import Trace
from openinference_router.waiting import Rank


@dataclass(slots=True)
class Call:
    """`waited`: over all attempts. `broken`: how many groups broke since it last got on."""

    exchange: Exchange
    service: Service
    progress: Progress
    reply: Reply
    trace: Trace
    rank: Rank
    wish: Wish
    stopwatch: Stopwatch
    waited: Spent | None = None
    broken: int = 0

    def note_tokens(self) -> None:
        """What a stream has used, by its usage report or, without one, by a guess at its prompt."""
        if num_tokens := self.progress.num_tokens:
            guess = num_tokens + self.exchange.size_bytes // BYTES_PER_TOKEN
            self.trace.num_tokens = self.progress.total_tokens or int(guess)

    def end_at(self) -> float:
        """When a stream will be complete at its present speed; infinite while that is unknown."""
        num_left = self.exchange.max_tokens - self.progress.num_tokens
        return self.stopwatch.last_at + num_left * self.stopwatch.seconds_per_token
