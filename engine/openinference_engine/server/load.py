"""`GET /load`: heartbeat, load report and drain notice in one event stream (docs/wire.md)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from openinference_engine.server.sse import EventStream, event
from openinference_engine.server.state import STATE, ServerState

_LOOK_SECONDS = 0.1
_SILENCE_SECONDS = 1.0


def load_report(state: ServerState) -> dict[str, Any]:
    status = state.core.status
    return {
        "group": state.server.group,
        "model": state.model_name,
        "ready": state.unready_reason is None,
        "draining": state.is_draining,
        "stepAgeSeconds": round(state.core.heartbeat.age_seconds, 3),
        "seats": state.engine.max_sequences,
        "running": status.running,
        "waiting": max(status.waiting, state.num_in_flight - status.running),
        "queuedTokens": status.queued_tokens,
        "kvUsage": round(status.kv_usage, 4),
        "prefillTokensPerSecond": round(status.prefill_tokens_per_second, 1),
        "decodeTokensPerSecond": round(status.decode_tokens_per_second, 1),
        "resumeKey": state.resume_key,
    }


async def load(request: web.Request) -> web.StreamResponse:
    """One event at once, then on change (ten a second at most) and at least every second."""
    state = request.app[STATE]
    events = await EventStream.open(request, {})
    last: dict[str, Any] = {}
    sent_at = 0.0
    while not state.is_closing:
        report = load_report(state)
        if {**report, "stepAgeSeconds": 0} != last or time.monotonic() - sent_at > _SILENCE_SECONDS:
            await events.send(event(report, "load"))
            last, sent_at = {**report, "stepAgeSeconds": 0}, time.monotonic()
        await asyncio.sleep(_LOOK_SECONDS)
    return await events.end()
