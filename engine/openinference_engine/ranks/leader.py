"""Rank 0's side of a group: opens the meeting, starts its pod's other ranks, gives steps out.

Several steps may be under way, one per stage; all stages compute them in the order they were begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from openinference_engine import ops
from openinference_engine.backend import (
    CPU_PATHS,
    Backend,
    Capacity,
    choose_cache_format,
    plan_capacity,
)
from openinference_engine.batch import Batch, build_batch
from openinference_engine.config import EngineConfig
from openinference_engine.errors import StartError
from openinference_engine.limits import memory_limit_bytes
from openinference_engine.ranks.addresses import LOOPBACK
from openinference_engine.ranks.facts import facts_of
from openinference_engine.ranks.layout import check_fits, kv_bytes_per_token
from openinference_engine.ranks.link import LeaderLink
from openinference_engine.ranks.local import LocalRanks, threads_per_rank
from openinference_engine.ranks.messages import step_message
from openinference_engine.ranks.rendezvous import (
    MEETING_SECONDS,
    Meeting,
    Verdict,
    host_meeting,
)
from openinference_engine.ranks.stage import Outcome, Stage, load_stage
from openinference_engine.ranks.team import Post, Ranks
from openinference_engine.ranks.watch import End, end_process
from openinference_engine.results import StepResult
from openinference_engine.runner import draw
from openinference_engine.speed import SpeedMeter
from openinference_engine.step import Step
from openinference_engine.weights.checkpoint import Checkpoint

Part = TypeVar("Part")
_LEAST_SECONDS = 4.0  # that a step may take: a hung rank ends its group within 5 s
_SLOWER_THAN_PREDICTED = 10.0
_FIRST_STEPS_SECONDS = 600.0  # until something like it was measured


class GroupRunner:
    """Runs steps on all ranks. `begin` gives one out, `finish` takes the oldest one's tokens."""

    def __init__(
        self, stage: Stage, link: LeaderLink, config: EngineConfig, speed: SpeedMeter
    ) -> None:
        self.num_stages = config.group.pipeline
        self._stage, self._link, self._speed = stage, link, speed
        self._block_size = config.block_size
        self._under_way: deque[tuple[Step, Batch, Outcome | None]] = deque()

    def warm_up(self, max_rows: int) -> None:
        """Nothing: what costs once is paid by the first step."""

    def run(self, step: Step) -> StepResult:
        self.begin(step)
        return self.finish()

    def begin(self, step: Step) -> None:
        batch = build_batch(step.chunks, self._block_size)
        seconds = patience_seconds(self._speed, step, *(earlier for earlier, *_ in self._under_way))
        self._link.watch.expect(seconds)
        self._link.send(step_message(batch, _wants_states(step), seconds))
        self._under_way.append((step, batch, self._stage.compute(batch, _wants_states(step))))

    def finish(self) -> StepResult:
        step, *_ = self._under_way[0]
        return draw(step, *self.collect())

    def collect(self) -> Outcome:
        """States and logits of the oldest step under way."""
        step, batch, own = self._under_way.popleft()
        outcome = self._stage.collect(batch, _wants_states(step), own)
        if not self._under_way:  # else the deadline is theirs too
            self._link.watch.done()
        return outcome

    def is_leaving(self) -> bool:
        """Whether another pod of the group was told to terminate."""
        return self._link.is_leaving()

    def close(self) -> None:
        self._link.close()


def load_group_backend(
    checkpoint: Checkpoint, config: EngineConfig, speed: SpeedMeter, end: End = end_process
) -> Backend:
    """Meets the other ranks and loads this one's part.

    Raises StartError if the model does not fit or a rank is missing, differs or fails.
    """
    group, model = config.group, checkpoint.config
    meeting = host_meeting(group)
    with meeting.telling():
        check_fits(model, group)
        limit = memory_limit_bytes()
        position_bytes = kv_bytes_per_token(model, group, choose_cache_format(model, config))
        capacity = plan_capacity(model, config, limit, limit // 10, position_bytes)
    ops.use_threads(threads_per_rank(group))

    def load(ranks: Ranks, post: Post, verdict: Verdict) -> Stage:
        return load_stage(checkpoint, config, ranks, post, verdict)

    link, stage = assemble(meeting, checkpoint, config, capacity, load, end)
    runner = GroupRunner(stage, link, config, speed)
    return Backend(runner, capacity, ops.KERNEL_PATH, CPU_PATHS, group=runner)


def assemble(
    meeting: Meeting,
    checkpoint: Checkpoint,
    config: EngineConfig,
    capacity: Capacity,
    load: Callable[[Ranks, Post, Verdict], Part],
    end: End = end_process,
) -> tuple[LeaderLink, Part]:
    """Rank 0: meets the others at its `host_meeting`, loads its part, and waits until all have.

    Raises StartError if a rank is missing, differs or fails.
    """
    group = config.group
    local = LocalRanks(config, meeting.rendezvous)

    meeting.await_facts(facts_of(checkpoint, config), local.exit_code)

    def end_pod(reason: str) -> None:
        local.kill()
        end(reason)

    link = LeaderLink("*" if group.pods > 1 else LOOPBACK, end_pod)
    link.watch.look, link.on_close = local.trouble, local.end
    verdict = Verdict("", link.port, capacity.max_model_len, capacity.num_cache_blocks)
    meeting.decide(verdict)
    num_others = group.num_ranks - 1

    def connect() -> tuple[Ranks, Post]:
        link.await_joined(num_others)
        return meeting.form_ranks()

    try:
        ranks, post = link.watch.within(MEETING_SECONDS, "connecting the ranks", connect)
        part = load(ranks, post, verdict)
        link.await_ready(num_others)
    except StartError:
        link.close()
        raise
    return link, part


def patience_seconds(speed: SpeedMeter, *steps: Step) -> float:
    """For all of them: each waits for those before it."""
    predicted = [speed.predict_seconds(one.num_tokens, one.num_decodes) for one in steps]
    if not all(predicted):
        return _FIRST_STEPS_SECONDS
    return max(_LEAST_SECONDS, _SLOWER_THAN_PREDICTED * sum(predicted))


def _wants_states(step: Step) -> bool:
    return any(chunk.draw is not None and chunk.draw.params.embeds for chunk in step.chunks)
