"""A rank that is not rank 0: it joins, loads its part, and computes every step that it is given."""

from __future__ import annotations

from collections.abc import Callable

from openinference_engine import ops
from openinference_engine.config import EngineConfig
from openinference_engine.errors import StartError
from openinference_engine.ranks.link import End, RankLink, end_process
from openinference_engine.ranks.local import threads_per_rank
from openinference_engine.ranks.messages import Failed, Ready
from openinference_engine.ranks.rendezvous import (
    MEETING_SECONDS,
    Meeting,
    Verdict,
    facts_of,
    visit_meeting,
)
from openinference_engine.ranks.stage import Stage, load_stage
from openinference_engine.weights.checkpoint import Checkpoint


def serve_rank(
    checkpoint: Checkpoint,
    config: EngineConfig,
    rank: int,
    end: End = end_process,
    on_ready: Callable[[RankLink], None] = lambda link: None,
) -> None:
    """Until the group ends. Raises StartError if it cannot join or load.

    on_ready: hears of the link to rank 0 when this rank has loaded.
    """
    ops.use_threads(threads_per_rank(config.group))
    meeting = visit_meeting(config.group, rank)
    verdict = meeting.join(facts_of(checkpoint, config))
    link = RankLink(meeting.leader, verdict.link_port, rank, end)
    stage = _load(checkpoint, config, meeting, verdict, link)
    link.send(Ready())
    on_ready(link)
    while (message := link.receive()) is not None:
        link.watch.expect(message.seconds)
        stage.compute(message.batch(), message.wants_states)
        link.watch.done()
    link.close()


def _load(
    checkpoint: Checkpoint,
    config: EngineConfig,
    meeting: Meeting,
    verdict: Verdict,
    link: RankLink,
) -> Stage:
    try:
        return load_stage(
            checkpoint,
            config,
            *link.watch.within(MEETING_SECONDS, "connecting the ranks", meeting.form_ranks),
            max_model_len=verdict.max_model_len,
            num_cache_blocks=verdict.num_cache_blocks,
        )
    except (StartError, MemoryError) as error:
        reason = str(error) or "out of memory"
        link.send(Failed(reason))
        link.close()
        raise StartError(reason) from error
