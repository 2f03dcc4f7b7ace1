"""One client request from its first byte to its last: parse, wait for a seat, attempt, repeat.

A request fails only when its budgets are spent: waiting (service), retries (service), failures of
its own. A retry and a resume are one loop here; what was already said decides (`progress`) where
the next attempt may run. Cancelled when the client goes away, which frees place, seat and engine.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import aiohttp
from aiohttp import web

from openinference_router import exchange
from openinference_router.call import Call
from openinference_router.errors import AttemptFailed, Moved, Refusal, unavailable
from openinference_router.group import INTERNAL_ERROR, Attempt, Group
from openinference_router.meter import Stopwatch
from openinference_router.progress import Progress
from openinference_router.reply import Reply
from openinference_router.service import Service
from openinference_router.trace import REQUEST_ID_HEADER, TRACE, Trace
from openinference_router.upstream import Upstream, open_upstream
from openinference_router.waiting import Caller, Ticket
from openinference_router.wire import TOKEN_HEADER

MAX_BROKEN_ATTEMPTS = 5
"""A request that saw so many groups break, and got nowhere, may be what breaks them."""

RESUME_HEADER = "x-openinference-resume"
"""`off`: a client that prefers a cut stream, and the control runs of our own tests."""

DEADLINE_HEADER = "x-openinference-timeout-seconds"
"""A request that got no seat by then is refused: its client would not wait for the answer."""

CALLER = web.RequestKey("caller", Caller)

GROUP_HEADER = "x-openinference-group"
REVISION_HEADER = "x-openinference-revision"


class Proxy:
    """Serves the generating endpoints; `select` finds the service of a Host and a model."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        select: Callable[[str, str | None], Service],
        token: str | None,
        *,
        keep_alive_seconds: float,
        stall_timeout_seconds: float,
        first_token_timeout_seconds: float = math.inf,
        body_timeout_seconds: float = 30.0,
    ) -> None:
        self._session = session
        self._select = select
        self._token_header = {TOKEN_HEADER: token} if token else {}
        self._keep_alive_seconds = keep_alive_seconds
        self._stall_timeout_seconds = stall_timeout_seconds
        self._body_timeout_seconds = body_timeout_seconds
        self._first_token_timeout_seconds = first_token_timeout_seconds

    async def handle(self, request: web.Request) -> web.StreamResponse:
        trace = request[TRACE]
        reply = Reply(request, {REQUEST_ID_HEADER: trace.request_id})
        try:
            await self._serve(await self._begin(request, reply, trace))
        except Refusal as refusal:
            trace.code = refusal.status
            await reply.refuse(refusal)
        return reply.response

    async def _begin(self, request: web.Request, reply: Reply, trace: Trace) -> Call:
        asked = exchange.parse(request.path, await self._body(request))
        service = self._select(request.host, asked.model)
        trace.service, trace.model = service.name, service.routing.model
        trace.is_stream = asked.is_stream
        may_resume = self._token_header and request.headers.get(RESUME_HEADER) != "off"
        return Call(
            exchange=asked,
            service=service,
            progress=Progress(tracks_tokens=asked.is_stream and bool(may_resume)),
            reply=reply,
            trace=trace,
            rank=service.rank(request[CALLER], _patience_seconds(request.headers)),
            wish=service.wish(asked.fields, request.headers),
            stopwatch=Stopwatch(service.meter, trace.arrived_at),
        )

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                return await request.read()
        except TimeoutError as error:
            raise Refusal(
                408, f"the body did not arrive within {self._body_timeout_seconds:g} s"
            ) from error
        except web.RequestPayloadError as error:
            raise Refusal(
                400,
                "the body is not what its headers say; check Content-Encoding and "
                "Transfer-Encoding",
            ) from error

    async def _serve(self, call: Call) -> None:
        """Attempt until the answer is whole. Raises Refusal when a budget is spent."""
        with call.service.open_request(), call.stopwatch:
            try:
                while (failure := await self._try_once(call)) is not None:
                    call.trace.failed(failure)
                    self._allow_another(call, failure)
            finally:
                call.note_tokens()

    async def _try_once(self, call: Call) -> AttemptFailed | None:
        """Wait for a seat and attempt there; None when the answer is whole."""
        ticket = call.service.enter(call.rank, call.wish, call.waited)
        try:
            group = await self._seat(call, ticket)
            return await self._attempt(call, group)
        finally:
            call.service.leave(ticket)

    async def _seat(self, call: Call, ticket: Ticket) -> Group:
        started_at = time.monotonic()
        while (group := await call.service.wait(ticket, self._keep_alive_seconds)) is None:
            if call.exchange.is_stream:
                await call.reply.keep_alive()
        call.waited = call.service.waited(ticket)
        call.trace.held_seconds += time.monotonic() - started_at
        return group

    async def _attempt(self, call: Call, group: Group) -> AttemptFailed | None:
        call.trace.groups.append(group.id)
        call.reply.headers[GROUP_HEADER] = group.id
        call.reply.headers[REVISION_HEADER] = group.routed.revision
        num_released, resume_key = call.progress.num_released, group.resume_key
        try:
            async with group.attempt() as attempt:
                await self._relay(call, group, attempt)
        except AttemptFailed as failure:
            call.service.attempt_failed(group, failure)
            if call.progress.is_complete:
                return None
            if call.progress.num_released > num_released:
                call.broken = 0
            call.broken += failure.is_broken
            self._change_wish(call, group.id, resume_key)
            return failure
        call.service.answered(group, call.trace.code)
        return None

    def _change_wish(self, call: Call, failed_id: str, resume_key: str) -> None:
        """Elsewhere if possible; once the client has seen tokens, only where they would recur."""
        call.progress.restart()
        call.wish = replace(
            call.wish,
            avoid=call.wish.avoid | {failed_id},
            resume_key=resume_key if call.progress.has_begun else None,
        )

    async def _relay(self, call: Call, group: Group, attempt: Attempt) -> None:
        asked_at = time.monotonic()
        if call.exchange.is_stream:
            attempt.heard_at, attempt.patience_seconds = asked_at, self._first_token_timeout_seconds
            attempt.can_move, attempt.end_at = call.progress.tracks_tokens, call.end_at
        upstream = await open_upstream(
            self._session,
            group.routed.address + call.exchange.path,
            call.trace.headers | self._token_header,
            call.exchange.body(call.progress.internal()),
        )
        try:
            if upstream.is_stream:
                await self._relay_stream(call, upstream, attempt, asked_at)
            else:
                answer = await upstream.answer()
                call.trace.answered(answer.status, engine_seconds=time.monotonic() - asked_at)
                usage = answer.usage
                call.service.meter.num_tokens += usage.completion_tokens
                call.trace.num_tokens = usage.total_tokens
                await call.reply.whole(answer.status, answer.headers, answer.body)
        finally:
            upstream.close()

    async def _relay_stream(
        self, call: Call, upstream: Upstream, attempt: Attempt, asked_at: float
    ) -> None:
        """Pass events on as they come. What is absorbed is written before more is waited for."""
        progress = call.progress
        while (batch := await upstream.events()) is not None:
            if events := progress.absorb(batch):
                now = time.monotonic()
                call.trace.answered(200, engine_seconds=now - asked_at)
                if progress.has_failed:
                    call.trace.code = INTERNAL_ERROR
                call.stopwatch.streamed(progress.num_tokens, now)
                attempt.heard_at = math.inf  # a client that reads slowly is not the group's fault
                await call.reply.write(events)
                attempt.heard_at = now
                attempt.patience_seconds = self._stall_timeout_seconds
            if progress.failure is not None:
                raise progress.failure
            if progress.is_complete:
                await call.reply.end()
        if not progress.is_complete:
            raise AttemptFailed("closed its stream before the end")

    def _allow_another(self, call: Call, failure: AttemptFailed) -> None:
        """Raises Refusal unless the request may be attempted once more."""
        can_resume = call.progress.tracks_tokens and call.wish.resume_key
        if call.progress.has_begun and not can_resume:
            raise unavailable("the replica was lost and the stream cannot resume", code="cut")
        if call.broken >= MAX_BROKEN_ATTEMPTS:
            raise unavailable(
                f"{call.broken} attempts failed in a row; the last one {failure.reason}",
                code="gave_up",
            )
        if not isinstance(failure, Moved) and not call.service.may_retry():
            raise unavailable("too many requests are being retried", code="retry_budget")


def _patience_seconds(headers: Mapping[str, str]) -> float:
    """How long a client would wait for a seat. Raises Refusal for what is no time."""
    text = headers.get(DEADLINE_HEADER, "inf")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise Refusal(
            400,
            f"{DEADLINE_HEADER}: {text!r} is no time; send seconds such as 30",
            parameter=DEADLINE_HEADER,
        )
    return seconds
