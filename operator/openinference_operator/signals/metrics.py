"""The metrics of the autoscaler as Prometheus knows them; what is missing is lost.

Latencies are those of the routers, which clients see: what a request waits in a router counts. No
request within the window is no latency. That is a value, zero, only while nobody waits or runs;
otherwise it is lost, for engines that hang answer nobody.
"""

from collections.abc import Sequence

from openinference_operator.scaling import Demand, Lost, Reading, queue_reading
from openinference_operator.scaling_spec import Average, Latency, Metric, Value
from openinference_operator.signals.prometheus import (
    WAITING,
    Expected,
    Prometheus,
    Sample,
    selector,
)

WINDOW_SECONDS = 60  # four scrapes at the usual 15 s
PROMPT_WINDOW_SECONDS = 600  # how long prompts are changes more slowly
QUANTILE = 0.9
TTFT = "openinference_router_first_token_seconds"
TPOT = "openinference_router_time_per_output_token_seconds"
KV_USAGE = "vllm:kv_cache_usage_perc"
QUEUED_TOKENS = "openinference_queued_tokens"
PREFILL_SPEED = "openinference_prefill_tokens_per_second"
PROMPT_TOKENS = "vllm:request_prompt_tokens"


class Metrics:
    """Reads the metrics of one service at one moment.

    `told` is its demand as Prometheus tells it: where that is lost, other series of the same
    processes are not whole either. `demand` is the best there is, perhaps from the routers.
    """

    def __init__(
        self,
        prometheus: Prometheus,
        service: tuple[str, str],
        expected: Expected,
        told: Demand | Lost,
        demand: Demand | Lost,
    ) -> None:
        self._prometheus = prometheus
        self._labels = selector(*service)
        self._expected = expected
        self._told = told
        self._demand = demand

    async def read(self, metric: Metric) -> Reading | Lost:
        """The reading of a metric now."""
        match metric:
            case Average("Queue"):
                return (
                    self._demand if isinstance(self._demand, Lost) else queue_reading(self._demand)
                )
            case Average("Prometheus") | Value():
                return await self._custom(metric.query)
            case _ if isinstance(self._told, Lost):
                return self._told
            case Average("KVCache"):
                return await self._kv_cache()
            case Average():
                return await self._backlog(self._told)
            case Latency():
                return await self._latency(metric, self._told)

    async def _custom(self, query: str) -> Reading | Lost:
        samples = await self._prometheus.query(query)
        if isinstance(samples, Lost):
            return samples
        if len(samples) != 1:
            return Lost(f"the query gives {len(samples)} series instead of one: {query}")
        return Reading(samples[0].value, f"{samples[0].value:g}")

    async def _kv_cache(self) -> Reading | Lost:
        samples = await self._series(f"{KV_USAGE}{{{self._labels}}}")
        if isinstance(samples, Lost):
            return samples
        total, count = _sum(samples), len(samples)
        words = f"{100 * total / count:.0f} % of the KV cache of {count}" if count else "no engine"
        return Reading(total, words)

    async def _series(self, expression: str) -> Sequence[Sample] | Lost:
        """One series of each engine that must have one."""
        samples = await self._prometheus.query(expression)
        if isinstance(samples, Lost) or len(samples) >= self._expected.engines:
            return samples
        return Lost(
            f"Prometheus has {len(samples)} of {self._expected.engines} series of {expression}"
        )

    async def _backlog(self, demand: Demand) -> Reading | Lost:
        """Prompt tokens that wait, over the speed of one replica."""
        queued = await self._series(f"{QUEUED_TOKENS}{{{self._labels}}}")
        speeds = await self._series(f"{PREFILL_SPEED}{{{self._labels}}} > 0")
        held = await self._held_tokens()
        if isinstance(queued, Lost):
            return queued
        if isinstance(held, Lost):
            return held
        tokens = _sum(queued) + held
        if not tokens:
            return Reading(0.0, f"no prompt waits, {demand.running:g} running")
        if isinstance(speeds, Lost) or not speeds:
            return Lost(f"{tokens:.0f} prompt tokens wait, and no prefill speed is measured yet")
        speed = _sum(speeds) / len(speeds)
        return Reading(
            tokens / speed, f"{tokens / speed:.3g} s ({tokens:.0f} tokens at {speed:.0f} tokens/s)"
        )

    async def _held_tokens(self) -> float | Lost:
        """Routers do not tokenise, so a request held there counts as one of usual length."""
        held = await self._prometheus.query(
            f'sum({WAITING}{{{self._labels},component="router"}}) > 0'
        )
        if isinstance(held, Lost):
            return held
        if not held:
            return 0.0
        tokens, count = (
            f"sum(increase({PROMPT_TOKENS}_{part}{{{self._labels}}}[{PROMPT_WINDOW_SECONDS}s]))"
            for part in ("sum", "count")
        )
        length = await self._prometheus.query(f"{tokens} / ({count} > 0)")
        if isinstance(length, Lost):
            return length
        if not length:
            return Lost(f"{_sum(held):g} requests are held, and no prompt was measured yet")
        return _sum(held) * _sum(length)

    async def _latency(self, metric: Latency, demand: Demand) -> Reading | Lost:
        ratios, words, missing = [], [], []
        for name, series, target in (("TTFT", TTFT, metric.ttft), ("TPOT", TPOT, metric.tpot)):
            if not target:
                continue
            seconds = await self._quantile(series)
            if isinstance(seconds, Lost):
                return seconds
            if seconds is None:
                missing.append(name)
            else:
                ratios.append(seconds / float(target))
                words.append(f"{name} {seconds:.3g} s")
        return _worst(ratios, words, missing, demand)

    async def _quantile(self, series: str) -> float | Lost | None:
        """The quantile within the window; None when no request was measured."""
        increase = f"increase({series}_bucket{{{self._labels}}}[{WINDOW_SECONDS}s])"
        answer = await self._prometheus.query(
            f"histogram_quantile({QUANTILE}, sum by (le) ({increase})) >= 0"
        )
        if isinstance(answer, Lost):
            return answer
        return _sum(answer) if answer else None


def _worst(
    ratios: Sequence[float], words: Sequence[str], missing: Sequence[str], demand: Demand
) -> Reading | Lost:
    """The worst of the latencies that were measured; one that was not never lets replicas go."""
    is_idle = not demand.waiting and not demand.running
    if missing and not is_idle and not ratios:
        return Lost(
            f"no request gave a {' or '.join(missing)} within {WINDOW_SECONDS} s, though"
            f" {demand.waiting:g} wait and {demand.running:g} run"
        )
    if missing and not is_idle:
        ratios = [*ratios, 1.0]
    none = [f"no {name} within {WINDOW_SECONDS} s" for name in missing]
    return Reading(max(ratios, default=0.0), ", ".join([*words, *none]))


def _sum(samples: Sequence[Sample]) -> float:
    return sum(sample.value for sample in samples)
