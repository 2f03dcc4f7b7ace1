"""What no watch tells about a service: how far a download is, the memory of the nodes' GPUs, and
what keeps a pod from being made or from finding a node."""

from dataclasses import replace

from openinference_operator.admission import gpu_memories
from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError
from openinference_operator.groups import Group
from openinference_operator.observe import Observed, Obstacle
from openinference_operator.revision import revision_of
from openinference_operator.signals.downloads import INTERVAL_SECONDS, Downloads
from openinference_operator.signals.nodes import Nodes
from openinference_operator.signals.stuck import PATIENCE_SECONDS, Stuck, lacks_pod
from openinference_operator.spec import InferenceService


class Survey:
    """Asks the API server for what is not watched, seldom and only where it matters."""

    def __init__(self, cluster: Cluster) -> None:
        self._downloads = Downloads(cluster)
        self._nodes = Nodes(cluster)
        self._stuck = Stuck(cluster, self._nodes)

    async def add(
        self, service: InferenceService, observed: Observed
    ) -> tuple[Observed, float | None]:
        """The facts with what was learned, and in how many seconds there is more to learn."""
        again_in_seconds = None
        if fetcher := observed.preparation.fetcher:
            progress = await self._downloads.progress(service.namespace, fetcher)
            preparation = replace(observed.preparation, progress=progress)
            observed = replace(observed, preparation=preparation)
            again_in_seconds = INTERVAL_SECONDS
        if service.gpus_per_pod and observed.preparation.result is not None:
            observed = replace(observed, gpu_memories=await self._memories(service, observed))
        stuck = await self._what_is_stuck(service, observed)
        if stuck:
            observed = replace(observed, obstacles=stuck)
        if stuck or any(map(_may_get_stuck, observed.groups)):
            again_in_seconds = again_in_seconds or PATIENCE_SECONDS
        return observed, again_in_seconds

    async def _memories(self, service: InferenceService, observed: Observed) -> tuple[int, ...]:
        """Raises ApiError where a layout is to be chosen by them, which is kept for good."""
        try:
            return gpu_memories(service, await self._nodes.all())
        except ApiError:
            if revision_of(service) not in observed.revisions:
                raise
            return ()

    async def _what_is_stuck(
        self, service: InferenceService, observed: Observed
    ) -> dict[str, Obstacle]:
        shortages = await self._stuck.shortages(service, observed.groups)
        refusals = await self._stuck.refusals(service.namespace, observed.groups)
        stalls = await self._stuck.stalls(service.namespace, observed.groups)
        return {
            **{name: Obstacle(words, has_pod=True) for name, words in (shortages | stalls).items()},
            **{name: Obstacle(words, has_pod=False) for name, words in refusals.items()},
        }


def _may_get_stuck(group: Group) -> bool:
    """Whether it waits for a pod or its containers: no watch tells that they do not come."""
    return lacks_pod(group) or (group.being_made is not None and not group.is_going)
