"""From this machine to a Service of the cluster.

The embedded cluster routes service addresses to the host; other clusters (kind on a Mac, a
remote one) do not, and there `kubectl port-forward` carries the connection. Ask for the URL,
not for the way.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from e2e.cluster.kubectl import environment
from e2e.kube import Kube, KubeError


@asynccontextmanager
async def reach(kube: Kube, service: str, port: int) -> AsyncIterator[str]:
    """A base URL at which the Service answers while the block is open."""
    address = (await kube.get("service", service))["spec"]["clusterIP"]
    if await _is_reachable(address, port):
        yield _url(address, port)
        return
    async with _forwarded(kube, service, port) as url:
        yield url


def _url(host: str, port: int) -> str:
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"


async def _is_reachable(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    await writer.wait_closed()
    return True


@asynccontextmanager
async def _forwarded(kube: Kube, service: str, port: int) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(
            "kubectl",
            f"--namespace={kube.namespace}",
            "port-forward",
            f"service/{service}",
            f":{port}",
        ),
        env=os.environ | environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # "Forwarding from 127.0.0.1:43210 -> 8080"
        line = (await process.stdout.readline()).decode()
        if not line:
            complaint = (await process.stderr.read()).decode().strip()
            raise KubeError(f"service {service} cannot be reached: {complaint}")
        yield f"http://{line.split()[2]}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
