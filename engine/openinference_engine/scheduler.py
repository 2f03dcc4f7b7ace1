"""Decides what each step computes. Plain Python over requests and blocks, no torch, no clock.

One rule: a step gives each running request some of the tokens it still misses (`num_computed` →
`num_tokens`), within a token budget: first those that miss one token (decode), so a long prompt
never holds up a stream, then those that miss many (prefill). Requests are served in the order of
their `place` (arrival, shifted by priority), and the running ones are always the first of that
order: where seats or blocks do not suffice, the last running request gives its own up and is
computed again later, be it for a running one that grows or for a waiting one of an earlier place.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import zip_longest

from openinference_engine.blocks import BlockPool, extend_hashes
from openinference_engine.errors import BookkeepingError
from openinference_engine.request import FinishReason, Request
from openinference_engine.results import StepResult, TokenLogprobs
from openinference_engine.step import Chunk, Step, next_chunk


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request's new token, and why it ended with it."""

    request: Request
    token_id: int
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None
    embedding: bytes | None = None


class Scheduler:
    def __init__(
        self,
        pool: BlockPool,
        max_sequences: int,
        caches_prefixes: bool = True,
        looks_ahead: bool = False,
        steps_under_way: int = 1,
        window: int | None = None,
    ) -> None:
        """`looks_ahead`: where blocks are free, a sequence gets the block of its next token early,
        so that a runner may begin the next step before this one's tokens are known.
        `steps_under_way`: among so many steps the running requests are divided.
        `window`: positions that a token sees, its own included; blocks before them are given back.
        """
        self.pool = pool
        self._looks_ahead = looks_ahead
        self._steps_under_way = steps_under_way
        self.max_sequences = max_sequences
        self.num_preemptions = 0
        self._caches_prefixes = caches_prefixes
        self._window = window
        self._num_added = 0
        self._requests: dict[str, Request] = {}
        self._waiting: list[Request] = []  # both in the order of `place`
        self._running: list[Request] = []
        self._num_waiting_tokens = 0
        self._expiries: list[tuple[float, str]] = []  # a heap; may name requests that are gone

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_queued_tokens(self) -> int:
        """Tokens to compute before every request has drawn its next token."""
        return self._num_waiting_tokens + sum(request.num_missing for request in self._running)

    def add(self, request: Request) -> None:
        request.number = self._num_added
        self._num_added += 1
        self._requests[request.id] = request
        self._enqueue(request)
        if request.expires < math.inf:
            heappush(self._expiries, (request.expires, request.id))

    def expire(self, now: float) -> list[str]:
        """Ends the requests that have waited for their first seat until they expired: their ids."""
        expired: list[str] = []
        while self._expiries and self._expiries[0][0] <= now:
            request = self._requests.get(heappop(self._expiries)[1])
            if request is not None and not request.has_begun:
                self.abort(request.id)
                expired.append(request.id)
        return expired

    def abort(self, request_id: str) -> None:
        """Ends a request wherever it is; unknown ids are ignored (it may just have finished)."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        if request in self._running:
            self._running.remove(request)
            self.pool.release(request.preempt())
        else:
            self._dequeue(request)

    def schedule(self, token_budget: int) -> Step:
        """The next step: at most `token_budget` tokens, each request at most once.

        It may follow steps that are not committed, if it is computed after them: a request whose
        token they draw is left out, and blocks that are given back may go to another at once.
        """
        self._reserve_running()
        self._admit(token_budget)
        most = -(-len(self._running) // self._steps_under_way)
        chunks: list[Chunk] = []
        for request in sorted(self._running, key=lambda request: request.num_missing > 1):
            if token_budget == 0 or len(chunks) == most:
                break
            if request.num_missing:
                chunks.append(next_chunk(request, min(request.num_missing, token_budget)))
                request.advance(len(chunks[-1].token_ids))
                token_budget -= len(chunks[-1].token_ids)
        return Step(chunks)

    def commit(self, step: Step, result: StepResult) -> list[Drawn]:
        """Takes the results of a step."""
        results = zip_longest(result.token_ids, result.logprobs, result.embeddings)
        prompt_logprobs = iter(result.prompt_logprobs)
        drawn: list[Drawn] = []
        for chunk in step.chunks:
            rated = next(prompt_logprobs) if chunk.targets else []
            result_of_chunk = next(results) if chunk.draw is not None else None
            request = self._requests.get(chunk.request_id)
            if request is None or request.block_ids is not chunk.block_ids:
                continue  # it lost its seat meanwhile; what it draws again is the same
            request.take_prompt_logprobs(chunk.start, rated)
            self._seal(request, chunk)
            self._leave_behind(request, chunk)
            if result_of_chunk is not None:
                token_id, logprobs, embedding = result_of_chunk
                reason = request.append(token_id)
                drawn.append(Drawn(request, token_id, reason, logprobs, embedding))
                if reason is not None:
                    self.abort(request.id)
        return drawn

    def check_integrity(self) -> None:
        """Raises BookkeepingError unless every held block belongs to a running request."""
        self.pool.check_integrity()
        held = {block_id for request in self._running for block_id in request.held_block_ids}
        if len(held) != self.pool.num_blocks - self.pool.num_free:
            raise BookkeepingError("a block is held by no running request")
        if any(request.block_ids for request in self._waiting):
            raise BookkeepingError("a waiting request holds blocks")
        if self._num_waiting_tokens != sum(request.num_tokens for request in self._waiting):
            raise BookkeepingError("the tokens of waiting requests do not add up")
        if len(self._requests) != self.num_running + self.num_waiting:
            raise BookkeepingError("a request is neither waiting nor running")
        for requests in (self._running, self._waiting):
            if sorted(requests, key=lambda request: request.place) != requests:
                raise BookkeepingError("requests lost their order")

    def _reserve_running(self) -> None:
        """Gives every running request blocks for all its tokens; the last ones pay for it."""
        index = 0
        while index < len(self._running):
            if self._reserve(self._running[index]):
                index += 1
            else:
                self._preempt_last()

    def _admit(self, token_budget: int) -> None:
        """Seats waiting requests while the step has tokens for them; a later one makes room."""
        while self._waiting:
            request = self._waiting[0]
            earlier = (other.num_missing for other in self._running if other.place < request.place)
            if sum(earlier) >= token_budget:
                return
            while not self._seat(request):
                if not self._running or self._running[-1].place < request.place:
                    return
                self._preempt_last()

    def _enqueue(self, request: Request) -> None:
        _insert(self._waiting, request)
        self._num_waiting_tokens += request.num_tokens

    def _dequeue(self, request: Request) -> None:
        self._waiting.remove(request)
        self._num_waiting_tokens -= request.num_tokens

    def _preempt_last(self) -> None:
        victim = self._running.pop()
        self.pool.release(victim.preempt())
        self._enqueue(victim)
        self.num_preemptions += 1

    def _reserve(self, request: Request) -> bool:
        missing = self.pool.blocks_for(request.num_tokens) - len(request.block_ids)
        if missing > 0:
            block_ids = self.pool.allocate(missing)
            if block_ids is None:
                return False
            request.block_ids.extend(block_ids)
        if self._looks_ahead and self.pool.blocks_for(request.num_tokens + 1) > len(
            request.block_ids
        ):
            request.block_ids.extend(self.pool.allocate(1) or [])
        return True

    def _seat(self, request: Request) -> bool:
        """Admits the request behind its cached prefix, if a seat and its blocks are free."""
        if len(self._running) >= self.max_sequences:
            return False
        prefix = self._cached_prefix(request)
        rest = self.pool.allocate(self.pool.blocks_for(request.num_tokens) - len(prefix))
        if rest is None:
            self.pool.release(prefix)
            return False
        self._dequeue(request)
        request.admit(prefix + rest, len(prefix) * self.pool.block_size)
        _insert(self._running, request)
        return True

    def _cached_prefix(self, request: Request) -> list[int]:
        """Held blocks of the known prefix; the last token is always computed, for its logits."""
        if not (self._caches_prefixes and request.may_use_cache):
            return []
        size = self.pool.block_size
        return self.pool.take_prefix(extend_hashes(request, size, (request.num_tokens - 1) // size))

    def _seal(self, request: Request, chunk: Chunk) -> None:
        """Makes the blocks that a chunk has filled known to others."""
        size = self.pool.block_size
        first_full = chunk.start // size
        num_full = (chunk.start + len(chunk.token_ids)) // size
        if self._caches_prefixes and num_full > first_full:
            hashes = extend_hashes(request, size, num_full)
            for index in range(first_full, num_full):
                self.pool.seal(request.block_ids[index], hashes[index])

    def _leave_behind(self, request: Request, chunk: Chunk) -> None:
        """Gives back the blocks that no token behind the chunk sees: a prefix still finds them."""
        if self._window is not None:
            num_hidden = max(chunk.start + len(chunk.token_ids) + 1 - self._window, 0)
            self.pool.release(request.leave_behind(num_hidden // self.pool.block_size))


def _insert(requests: list[Request], request: Request) -> None:
    insort(requests, request, key=lambda other: other.place)
