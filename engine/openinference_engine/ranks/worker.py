"""A rank that is not rank 0: it joins, loads its part, and computes every step that it is given."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import torch

from openinference_engine import ops
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.errors import StartError
from openinference_engine.ranks.facts import facts_of
from openinference_engine.ranks.link import RankLink
from openinference_engine.ranks.local import threads_per_rank
from openinference_engine.ranks.messages import Failed, Ready, StepMessage, ToRank
from openinference_engine.ranks.rendezvous import (
    MEETING_SECONDS,
    Meeting,
    Verdict,
    visit_meeting,
)
from openinference_engine.ranks.stage import load_stage
from openinference_engine.ranks.team import Post, Ranks
from openinference_engine.ranks.watch import End, end_process
from openinference_engine.weights.checkpoint import Checkpoint

_MARGIN_SECONDS = 10.0  # for the last word of a meeting that is over
log = logging.getLogger("openinference.ranks")


class RankPart(Protocol):
    def take(self, message: ToRank) -> None:
        """Does, or queues, what rank 0 says."""

    def abort(self) -> None:
        """From any thread, when the group ends: what waits for other ranks is to give up."""


Load = Callable[[Ranks, Post, Verdict], RankPart]


def serve_rank(
    checkpoint: Checkpoint,
    config: EngineConfig,
    rank: int,
    end: End = end_process,
    on_ready: Callable[[RankLink], None] = lambda link: None,
    load: Load | None = None,
) -> None:
    """Until the group ends. Raises StartError if it cannot join or load.

    on_ready: hears of the link to rank 0 when this rank has loaded. load: this rank's part, if not
    that of the checkpoint for the device of the settings.
    """
    try:
        load = load or _loader(checkpoint, config, rank)
    except StartError as error:
        log.error("this rank cannot start", extra={"fields": {"rank": rank, "reason": str(error)}})
        with suppress(StartError, RuntimeError):  # no rank 0 to tell it, which hides no reason
            visit_meeting(config.group, rank).decline(str(error))
        raise
    facts = facts_of(checkpoint, config)
    with _ending_if_unheard(config.group, end):
        meeting = visit_meeting(config.group, rank)
        verdict = meeting.join(facts)
    link = RankLink(meeting.leader, verdict.link_port, rank, end)
    part = _load(load, meeting, verdict, link)
    link.send(Ready())
    on_ready(link)
    while (message := link.receive()) is not None:
        link.watch.expect(message.seconds if isinstance(message, StepMessage) else math.inf)
        part.take(message)
        link.watch.done()
    link.close()


@contextmanager
def _ending_if_unheard(group: GroupConfig, end: End) -> Iterator[None]:
    """A rank 0 that was stopped answers nothing, and torch's store waits for it without a limit.

    It may be found as late as the deadline, and may then wait as long for all the others.
    """
    seconds = 2 * group.rendezvous_timeout_seconds + _MARGIN_SECONDS
    reason = f"rank 0 at {group.rendezvous} said nothing for {seconds:g} s"
    timer = threading.Timer(seconds, end, [reason])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _loader(checkpoint: Checkpoint, config: EngineConfig, rank: int) -> Load:
    if config.device == "cuda":
        from openinference_engine.ranks.cuda_group import follower_loader

        return follower_loader(checkpoint, config, rank)
    ops.use_threads(threads_per_rank(config.group))
    return lambda ranks, post, verdict: load_stage(checkpoint, config, ranks, post, verdict)


def _load(load: Load, meeting: Meeting, verdict: Verdict, link: RankLink) -> RankPart:
    try:
        ranks, post = link.watch.within(MEETING_SECONDS, "connecting the ranks", meeting.form_ranks)
        part = load(ranks, post, verdict)
    except (StartError, MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error) or "out of memory"
        link.send(Failed(reason))
        link.close()
        raise StartError(reason) from error
    link.watch.before_end = part.abort
    return part
