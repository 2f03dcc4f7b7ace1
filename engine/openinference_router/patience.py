"""How much longer a request may wait for a seat, and what it is told when it may not: pure."""

from openinference_router.budgets import Spent
from openinference_router.errors import Refusal, overloaded, unavailable
from openinference_router.waiting import Ticket
from openinference_router.wire import Routing

TIMER_SLACK_SECONDS = 0.001  # a timer may fire this early


def patience_seconds(
    ticket: Ticket,
    spent: Spent,
    routing: Routing,
    *,
    has_capacity: bool,
    is_hopeless: bool,
    now: float,
) -> float:
    """spent: what it has waited so far. is_hopeless: no replica could go on with its stream.

    Raises Refusal when a budget is spent: 429 behind others, 503 without capacity.
    """
    left, refusal = _budget_left(ticket, spent, routing, has_capacity)
    if is_hopeless:
        raise refusal
    until_deadline = ticket.deadline_at - now
    if until_deadline < left:
        left = until_deadline
        refuse = overloaded if has_capacity else unavailable
        refusal = refuse("no replica had room before the request's deadline", code="deadline")
    if left < TIMER_SLACK_SECONDS:
        raise refusal
    return left


def _budget_left(
    ticket: Ticket, spent: Spent, routing: Routing, has_capacity: bool
) -> tuple[float, Refusal]:
    """Seconds left of the waiting budget that counts now, and what is said at its end."""
    queue, name = routing.queue, routing.service
    if ticket.wish.resume_key is not None:
        left = queue.cold_start_timeout_seconds - spent.cold - spent.contended
        return left, unavailable("no replica is left that could go on with this stream")
    if has_capacity:
        seconds = queue.contended_timeout_seconds
        refusal = overloaded(
            f"no replica of '{name}' had room in {seconds:g} s", code="queue_timeout"
        )
        return seconds - spent.contended, refusal
    seconds = queue.cold_start_timeout_seconds
    return seconds - spent.cold, unavailable(f"no replica of '{name}' was ready in {seconds:g} s")
