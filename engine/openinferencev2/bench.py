"""`openinference bench`: how fast an endpoint answers, as its clients feel it.

Closed loop (so many clients, each asks again when it was answered) or open loop (Poisson arrivals
at a rate, whatever the answers do; the honest one where users do not wait for each other). Prompts
are random words, so that a prefix cache helps as little as it does with strangers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from openinferencev2.answers import Reply, RequestFailed, model_of, open_session, stream
from openinferencev2.endpoint import Endpoint, Service, Url, reach
from openinferencev2.errors import CommandError
from openinferencev2.kubectl import Context, Namespace
from openinferencev2.output import Format, Output, out, print_json, remarks
from openinferencev2.spread import Spread, plot, spread

WORDS = (
    *("river", "stone", "winter", "engine", "letter", "garden", "number", "window", "music"),
    *("paper", "light", "mountain", "question", "bridge", "silver", "morning", "story", "road"),
)
TOKENS_PER_WORD = 1.3  # of common tokenizers, for English
PLOT_COLUMNS, LABEL_COLUMNS = 60, 32  # the labels: name, smallest and largest

Body = dict[str, object]
One = Callable[[Body], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and how much of it."""

    num_requests: int
    concurrency: int
    rate_per_second: float | None
    prompt_tokens: int
    output_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Target:
    """An answer within both counts as good."""

    first_token_seconds: float
    seconds_per_token: float

    def is_met(self, answer: Reply) -> bool:
        first, each = answer.first_token_seconds, answer.seconds_per_token
        return (
            first is not None
            and first <= self.first_token_seconds
            and (each is None or each <= self.seconds_per_token)
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Rates are per second of the whole run; goodput counts answers that met the target."""

    requests: int
    failed: int
    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    goodput_per_second: float
    first_token: Spread | None
    per_token: Spread | None
    failures: dict[str, int]


def bench(
    service: Service = None,
    model: Annotated[str, typer.Option(help="Default: the only one that is served.")] = "",
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Clients of the closed loop.")] = 8,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Arrivals per second: an open loop instead.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt, about.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=1, help="Of each answer, exactly.")] = 128,
    ttft_target: Annotated[float, typer.Option(help="Seconds to the first token.")] = 1.0,
    tpot_target: Annotated[float, typer.Option(help="Seconds per token after it.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    url: Url = None,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Format.TEXT,
) -> None:
    """Measure TTFT, TPOT, throughput and goodput. It loads what it measures: mind who else asks."""
    load = Load(requests, concurrency, rate, prompt_tokens, output_tokens, seed)
    target = Target(ttft_target, tpot_target)
    with reach(service, url, namespace, context) as endpoint:
        answers, failures, seconds = asyncio.run(_run(endpoint, model, load))
    report = summarise(answers, failures, seconds, target)
    if output is Format.JSON:
        print_json({"load": asdict(load), "target": asdict(target), "report": asdict(report)})
    else:
        _show(report, answers, target)
    if not answers:
        raise CommandError(f"every request failed: {next(iter(failures), 'none was made')}")


def summarise(
    answers: Sequence[Reply], failures: Sequence[str], seconds: float, target: Target
) -> Report:
    """The figures of one run."""
    first = [a.first_token_seconds for a in answers if a.first_token_seconds is not None]
    each = [a.seconds_per_token for a in answers if a.seconds_per_token is not None]
    return Report(
        requests=len(answers) + len(failures),
        failed=len(failures),
        seconds=seconds,
        requests_per_second=len(answers) / seconds,
        output_tokens_per_second=sum(answer.num_tokens for answer in answers) / seconds,
        goodput_per_second=sum(map(target.is_met, answers)) / seconds,
        first_token=spread(first),
        per_token=spread(each),
        failures={reason: failures.count(reason) for reason in dict.fromkeys(failures)},
    )


async def _run(endpoint: Endpoint, model: str, load: Load) -> tuple[list[Reply], list[str], float]:
    answers: list[Reply] = []
    failures: list[str] = []
    rng = random.Random(load.seed)  # noqa: S311  reproducible load, no secret
    bodies = [_body(load, rng) for _ in range(load.num_requests)]
    async with open_session(endpoint) as session:
        model = model or await model_of(session, endpoint)
        with Progress(console=remarks, disable=not remarks.is_terminal) as progress:
            task = progress.add_task("requests", total=len(bodies))

            async def one(body: Body) -> None:
                try:
                    asked = body | {"model": model}
                    answers.append(await stream(session, endpoint, "/v1/completions", asked))
                except RequestFailed as error:
                    failures.append(error.message)
                progress.advance(task)

            started_at = time.monotonic()
            if load.rate_per_second is None:
                await _closed_loop(bodies, load.concurrency, one)
            else:
                await _open_loop(bodies, load.rate_per_second, one, rng)
            return answers, failures, time.monotonic() - started_at


async def _closed_loop(bodies: Sequence[Body], concurrency: int, one: One) -> None:
    waiting = iter(bodies)

    async def client() -> None:
        for body in waiting:
            await one(body)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(bodies))):
            group.create_task(client())


async def _open_loop(
    bodies: Sequence[Body], rate_per_second: float, one: One, rng: random.Random
) -> None:
    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(one(body))
            await asyncio.sleep(rng.expovariate(rate_per_second))


def _body(load: Load, rng: random.Random) -> Body:
    num_words = max(1, round(load.prompt_tokens / TOKENS_PER_WORD))
    return {
        "prompt": " ".join(rng.choice(WORDS) for _ in range(num_words)),
        "max_tokens": load.output_tokens,
        "min_tokens": load.output_tokens,
        "temperature": 0,
    }


def _show(report: Report, answers: Sequence[Reply], target: Target) -> None:
    lines = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "MEAN", "P50", "P95", "P99"):
        lines.add_column(column)
    plots = []
    for name, found, durations in (
        ("TTFT", report.first_token, [a.first_token_seconds for a in answers]),
        ("TPOT", report.per_token, [a.seconds_per_token for a in answers]),
    ):
        known = [duration for duration in durations if duration is not None]
        if found:
            figures = [f"{1000 * value:.1f} ms" for value in asdict(found).values()]
            lines.add_row(name, *figures)
            plots.append(plot(name, known, min(PLOT_COLUMNS, out.width - LABEL_COLUMNS)))
    out.print(lines)
    for line in plots:
        out.print(line, style="cyan", no_wrap=True)
    out.print(
        f"{report.requests} requests in {report.seconds:.1f} s, {report.failed} failed: "
        f"{report.requests_per_second:.2f} requests/s, "
        f"{report.output_tokens_per_second:.1f} output tokens/s"
    )
    out.print(
        f"goodput {report.goodput_per_second:.2f} requests/s with TTFT ≤ "
        f"{target.first_token_seconds:g} s and TPOT ≤ {1000 * target.seconds_per_token:g} ms"
    )
    for reason, count in report.failures.items():
        out.print(f"[red]{count} × {reason}[/]")
