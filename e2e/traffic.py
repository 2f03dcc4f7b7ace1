"""Traffic that counts: every request ends up complete, refused or lost.

`Traffic` is what the fault tests and the demo use; `python -m e2e.traffic --url …` is the same
from a terminal. First `learn` the right answers from an undisturbed service, then let requests
`arrive` at a rate (open loop: a slow service does not slow its clients down) or `keep` a number
of them open. Leaving the block starts nothing new and waits for what is open.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Annotated, Self

import aiohttp
import typer
from rich.console import Console

from e2e.asks import Ask, long_streams, mixed_asks
from e2e.exchange import Transcript, exchange
from e2e.report import Report, Result
from e2e.verdict import Outcome, Reference, References, judge, reference_key

# How long a client that keeps a request open waits after a failure before it asks again.
FAILURE_PAUSE_SECONDS = 0.5


class TrafficError(Exception):
    """The traffic could not be made; says nothing about requests lost."""


class Traffic:
    """Requests against one model behind one base URL, and what became of each."""

    def __init__(
        self,
        base_url: str,
        model: str,
        references: References | None = None,
        deadline_seconds: float = 300.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.results: list[Result] = []
        self.references = dict(references or {})
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._deadline_seconds = deadline_seconds
        self._headers = headers
        self._open: set[Transcript] = set()
        self._changed = asyncio.Event()
        self._is_stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        # A new connection for each request: a kept one that the server closes at the wrong
        # moment would look like a lost request, and new ones spread over all routers.
        # No timeout of aiohttp's own: each request has its deadline. 10 s to connect is a
        # machine that is away, not one that is busy.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks if error is not None else ():
            task.cancel()
        try:
            await self.finish()
        except asyncio.CancelledError:
            if error is None:
                raise
        finally:
            await self._session.close()

    async def learn(self, asks: Iterable[Ask]) -> None:
        """Get the right answers, one at a time, from a service that nothing disturbs."""
        for ask in map(reference_key, asks):
            if ask not in self.references:
                self.references[ask] = await self._reference(ask)

    def keep(self, count: int, asks: Iterable[Ask]) -> None:
        """Keep `count` requests open: one that ends is followed by the next."""
        supply = itertools.cycle(asks)
        for _ in range(count):
            self._start(self._send_one_after_another(supply))

    def arrive(self, per_second: float, asks: Iterable[Ask]) -> None:
        """Send requests evenly spaced, however long the answers take."""
        self._start(self._send_at_rate(per_second, itertools.cycle(asks)))

    def stop(self) -> None:
        """Start nothing new; what is open goes on to its end."""
        self._is_stopped.set()

    async def finish(self) -> Report:
        """Start nothing new and wait for the end of what is open."""
        self.stop()
        while self._tasks:
            await asyncio.gather(*self._tasks)
        return self.report

    async def send(self, ask: Ask) -> Result:
        """Send one request, wait for its end, judge and record it."""
        reference = self.references[reference_key(ask)]
        seen = await self._exchange(ask)
        result = Result(seen, judge(seen, reference))
        self.results.append(result)
        self._announce()
        return result

    @property
    def streaming(self) -> int:
        """How many streams are in the middle of their tokens now."""
        return sum(seen.is_streaming for seen in self._open if seen.ask.is_streamed)

    @property
    def groups_streaming(self) -> Counter[str]:
        """Which groups those streams began in, as far as a router said so."""
        return Counter(seen.group for seen in self._open if seen.is_streaming and seen.group)

    @property
    def report(self) -> Report:
        return Report(tuple(self.results))

    async def until_streaming(self, count: int, timeout_seconds: float = 120.0) -> None:
        """Return at a moment when at least `count` streams are in the middle of their tokens."""
        await self._until(lambda: self.streaming >= count, timeout_seconds)

    async def until_streaming_from(self, group: str, timeout_seconds: float = 120.0) -> None:
        """Return at a moment when a stream that began in `group` is in the middle of its tokens."""
        await self._until(lambda: self.groups_streaming[group] > 0, timeout_seconds)

    async def busiest_group(self, timeout_seconds: float = 120.0) -> str:
        """The group in which most streams began that are in the middle of their tokens.

        Waits for one; raises TrafficError if there is none until then.
        """
        await self._until(lambda: bool(self.groups_streaming), timeout_seconds)
        return self.groups_streaming.most_common(1)[0][0]

    async def until_results(self, count: int, timeout_seconds: float = 120.0) -> None:
        """Return once `count` requests in all have ended, well or not."""
        await self._until(lambda: len(self.results) >= count, timeout_seconds)

    async def _until(self, is_reached: Callable[[], bool], timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not is_reached():
                    await self._changed.wait()
        except TimeoutError:
            raise TrafficError(
                f"not reached in {timeout_seconds:g} s: {self.streaming} streams are open, "
                f"{len(self.results)} requests have ended; {self.report.explain()}"
            ) from None

    def _start(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reference(self, ask: Ask) -> Reference:
        seen = await self._exchange(ask)
        if seen.trouble or seen.finish_reason is None or seen.completion_tokens is None:
            raise TrafficError(f"no reference answer to {ask.prompt!r}: {seen.detail or seen}")
        return Reference(seen.text, seen.completion_tokens, seen.finish_reason)

    async def _exchange(self, ask: Ask) -> Transcript:
        seen = Transcript(ask)
        self._open.add(seen)
        try:
            await exchange(
                self._session,
                self._base_url,
                self._model,
                seen,
                self._deadline_seconds,
                self._announce,
            )
        finally:
            self._open.remove(seen)
        return seen

    async def _send_one_after_another(self, supply: Iterator[Ask]) -> None:
        while not self._is_stopped.is_set():
            result = await self.send(next(supply))
            if result.verdict.outcome is not Outcome.COMPLETE:
                await self._is_stopped_within(FAILURE_PAUSE_SECONDS)

    async def _send_at_rate(self, per_second: float, supply: Iterator[Ask]) -> None:
        now = asyncio.get_running_loop().time
        start = now()
        for number in itertools.count(1):
            self._start(self.send(next(supply)))
            if await self._is_stopped_within(start + number / per_second - now()):
                return

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._is_stopped.wait()
        except TimeoutError:
            return False
        return True


async def served_model(base_url: str) -> str:
    """The first name that /v1/models lists."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(f"{base_url}/v1/models", raise_for_status=True) as response,
        ):
            return str((await response.json())["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError) as error:
        raise TrafficError(f"{base_url}/v1/models names no model ({error}); is it up?") from error


async def run(
    url: str,
    model: str,
    rate: float,
    streams: int,
    seconds: float,
    max_tokens: int,
    deadline_seconds: float,
) -> Report:
    """`rate` mixed requests per second beside `streams` streams kept open, for `seconds`."""
    base_url = url.rstrip("/").removesuffix("/v1")
    model = model or await served_model(base_url)
    mixed, long = mixed_asks(max_tokens), long_streams(4 * max_tokens)
    async with Traffic(base_url, model, deadline_seconds=deadline_seconds) as traffic:
        await traffic.learn((*(mixed if rate else ()), *(long if streams else ())))
        if rate:
            traffic.arrive(rate, mixed)
        traffic.keep(streams, long)
        await asyncio.sleep(seconds)
    return traffic.report


def main(
    url: Annotated[str, typer.Option(help="Base URL of a router or an engine.")],
    model: Annotated[str, typer.Option(help="Model to ask; default: the first served.")] = "",
    rate: Annotated[float, typer.Option(help="Requests per second, open loop.", min=0)] = 1.0,
    streams: Annotated[int, typer.Option(help="Long streams kept open beside them.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="How long to send; open ones then finish.")] = 30,
    max_tokens: Annotated[
        int, typer.Option(help="Of a request; a long stream has four times as many.")
    ] = 16,
    deadline_seconds: Annotated[
        float, typer.Option(help="A request without end by then hung.")
    ] = 120,
) -> None:
    """Send greedy requests with known answers and count complete, refused and lost."""
    console = Console()
    try:
        report = asyncio.run(run(url, model, rate, streams, seconds, max_tokens, deadline_seconds))
    except TrafficError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    console.print(report.table())
    if report.lost or report.refused:
        console.print(report.explain(), markup=False)
    raise typer.Exit(1 if report.lost else 0)


if __name__ == "__main__":
    typer.run(main)
