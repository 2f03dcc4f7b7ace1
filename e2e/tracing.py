"""A collector of spans in the cluster: what routers and engines send, trace by trace."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from e2e import collector
from e2e.asks import Json
from e2e.kube import Kube

PROGRAM = Path(collector.__file__).read_text()
NAME = "collector"


@dataclass(frozen=True, slots=True)
class Collector:
    """One pod and its address, in the namespace of its `kube`."""

    kube: Kube

    @property
    def endpoint(self) -> str:
        """The chart's value tracing.endpoint."""
        return f"http://{NAME}.{self.kube.namespace}.svc:{collector.PORT}"

    async def start(self) -> None:
        metadata = {"name": NAME, "labels": {"app": NAME}}
        container = {
            "name": NAME,
            "image": "openinference/engine:dev",
            "command": ["python3", "-c", PROGRAM],
            "readinessProbe": {"tcpSocket": {"port": collector.PORT}, "periodSeconds": 1},
        }
        pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
        service = {"selector": {"app": NAME}, "ports": [{"port": collector.PORT}]}
        for kind, spec in (("Pod", pod), ("Service", service)):
            await self.kube.apply(
                {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}
            )
        await self.kube.run("wait", f"pod/{NAME}", "--for=condition=Ready", "--timeout=3m")

    async def stop(self) -> None:
        await self.kube.run("delete", f"pod/{NAME}")

    async def spans(self, trace: str, number: int) -> list[Json]:
        """So many spans of a trace, the longest first, once they have arrived."""
        async with asyncio.timeout(120):
            while True:
                lines = (await self.kube.run("logs", NAME)).splitlines()
                spans = [each for each in map(json.loads, lines) if each["trace"] == trace]
                if len(spans) >= number:
                    return sorted(spans, key=lambda each: -float(each["seconds"]))
                await asyncio.sleep(0.5)
