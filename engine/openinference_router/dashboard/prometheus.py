"""The last hour from Prometheus: what all routers of the namespace saw together.

Asked at most once per step, however many look. What it cannot answer the router's own history
does, and a note says so.
"""

import asyncio
import math
import time

import aiohttp
import msgspec

from openinference_router.dashboard.history import LENGTH_SECONDS, History, LiveHistory, Points

STEP_SECONDS = 15
NUM_POINTS = LENGTH_SECONDS // STEP_SECONDS
_TIMEOUT = aiohttp.ClientTimeout(total=5)

# By series. `%s` selects the namespace; two minutes hold two scrapes of a minute's interval.
QUERIES = {
    "tokensPerSecond": "sum by (inference_service)"
    " (rate(openinference_router_output_tokens_total{%s}[2m]))",
    "waiting": 'sum by (inference_service) (openinference_requests_waiting{%s,component="router"})',
    "running": "sum by (inference_service) (openinference_router_in_flight{%s})",
    "replicas": "max by (inference_service) (openinference_router_groups_admitted{%s})",
    **{
        f"{series}P{percent}": f"histogram_quantile({percent / 100}, sum by (inference_service, le)"
        f" (rate({metric}_bucket{{%s}}[2m])))"
        for series, metric in (
            ("firstToken", "openinference_router_first_token_seconds"),
            ("perToken", "openinference_router_time_per_output_token_seconds"),
        )
        for percent in (50, 95)
    },
}


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data


_decode = msgspec.json.Decoder(_Answer).decode


class PrometheusHistory:
    """Reads the hour; `own` stands in while Prometheus does not answer."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, namespace: str, own: LiveHistory
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/api/v1/query_range"
        self._selector = f"inference_namespace={msgspec.json.encode(namespace).decode()}"
        self._own = own
        self._end = 0.0
        self._document = b""
        self._reading = asyncio.Lock()

    async def document(self) -> bytes:
        """A History as JSON, asked for and written once per step however many look."""
        async with self._reading:
            end = time.time() // STEP_SECONDS * STEP_SECONDS
            if self._end != end:
                self._document = msgspec.json.encode(await self._ask(end))
                self._end = end
            return self._document

    async def _ask(self, end: float) -> History:
        try:
            answers = await asyncio.gather(*(self._series(q, end) for q in QUERIES.values()))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            return self._own.read(note=f"Prometheus does not answer: {reason}")
        services: dict[str, dict[str, Points]] = {}
        for series, answer in zip(QUERIES, answers, strict=True):
            for service, points in answer.items():
                services.setdefault(service, {})[series] = points
        note = "" if services else "Prometheus has seen nothing of this namespace in the last hour."
        return History("prometheus", note, end, STEP_SECONDS, services)

    async def _series(self, query: str, end: float) -> dict[str, Points]:
        """Points by service. Raises aiohttp.ClientError, TimeoutError (an OSError), ValueError."""
        asked = {
            "query": query % self._selector,
            "start": f"{end - LENGTH_SECONDS + STEP_SECONDS}",
            "end": f"{end}",
            "step": f"{STEP_SECONDS}",
        }
        async with self._session.get(self._url, params=asked, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            found = _decode(await response.read()).data.result
        return {each.metric.get("inference_service", ""): _points(each, end) for each in found}


def _points(series: _Series, end: float) -> Points:
    """Values on the common grid; Prometheus leaves out moments without one."""
    points: Points = [None] * NUM_POINTS
    for at, text in series.values:
        index = NUM_POINTS - 1 - round((end - at) / STEP_SECONDS)
        value = float(text)
        if 0 <= index < NUM_POINTS and math.isfinite(value):
            points[index] = value
    return points
