"""The traffic in which a fault happens: twenty streams in the middle of their tokens, and clients
that ask one short request after another beside them.

A test shows each fault once. The campaign repeats it among thousands of requests.
"""

import os
from collections.abc import AsyncIterator

from e2e.asks import LONG_STREAMS, SHORT_ASKS
from e2e.reliability import Counted
from e2e.traffic import Traffic

STREAMS = 20
SHORT_CLIENTS = 8  # with the streams fewer than one replica has seats: nothing may be refused
REQUESTS = int(os.environ.get("OPENINFERENCE_REQUESTS", "60"))  # the campaign: 2,000
REQUESTS_PER_FAULT = 250
PATIENCE_SECONDS = 180.0


async def begin(traffic: Traffic) -> None:
    """Returns when all streams are in the middle of their tokens."""
    traffic.keep(STREAMS, LONG_STREAMS)
    traffic.keep(SHORT_CLIENTS, SHORT_ASKS)
    await traffic.until_streaming(STREAMS)


async def faults(traffic: Traffic, counted: Counted) -> AsyncIterator[int]:
    """The number of each fault that is due now; after it, its share of the requests ends."""
    counted.faults = max(1, REQUESTS // REQUESTS_PER_FAULT)
    for number in range(counted.faults):
        yield number
        await enough(traffic, REQUESTS * (number + 1) // counted.faults)
        await traffic.until_streaming(STREAMS, PATIENCE_SECONDS)


async def enough(traffic: Traffic, requests: int = REQUESTS) -> None:
    """So many requests have ended, well or not."""
    await traffic.until_results(requests, PATIENCE_SECONDS + requests)
