"""One question to Prometheus: how many requests wait?"""

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=5)


def waiting_query(namespace: str, service: str) -> str:
    """The sum over routers and engines, each of which exports only its own."""
    labels = f'inference_namespace="{namespace}",inference_service="{service}"'
    return f"sum(openinference_requests_waiting{{{labels}}})"


async def instant_value(session: aiohttp.ClientSession, base_url: str, query: str) -> float | None:
    """The query's value now; None where Prometheus has none or does not answer."""
    try:
        async with session.get(f"{base_url}/api/v1/query", params={"query": query}) as response:
            result = (await response.json())["data"]["result"]
    except (aiohttp.ClientError, TimeoutError, KeyError):
        return None
    return float(result[0]["value"][1]) if result else None
