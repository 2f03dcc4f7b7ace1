"""One namespace only: the operator's permissions end at its border, and all in it goes on."""

import asyncio
from collections.abc import Iterator

import pytest

from e2e.asks import Json
from e2e.inference_service import InferenceService, remove_namespace
from e2e.install import HELM_INSTALL, type_in
from e2e.kube import Kube, condition
from e2e.leadership import until_predecessors_are_gone

GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def elsewhere(installation: Kube) -> Iterator[InferenceService]:
    """A service in a namespace that nobody watches."""
    service = InferenceService(Kube("e2e-elsewhere"), "elsewhere")
    asyncio.run(remove_namespace(service.kube))
    asyncio.run(service.kube.create_namespace())
    yield service
    asyncio.run(remove_namespace(service.kube, is_awaited=False))


@pytest.fixture(scope="module")
def service(
    kube: Kube, elsewhere: InferenceService, installation: Kube
) -> Iterator[InferenceService]:
    """A service from before, now the operator's only namespace, with network policies off."""
    service = InferenceService(kube, "demo")
    asyncio.run(service.apply())
    asyncio.run(service.until_ready())
    asyncio.run(kube.until("networkpolicies", lambda found: len(found) == 2, 120))
    try:
        alone = ("--set", f"watchNamespace={kube.namespace}")
        _helm(installation, *alone, "--set", "networkPolicy.enabled=false")
        asyncio.run(elsewhere.apply())
        yield service
    finally:
        _helm(installation)


async def test_network_policies_that_were_switched_off_go(service: InferenceService) -> None:
    await service.kube.until("networkpolicies", lambda found: not found, 120)


async def test_a_change_is_rolled_out_by_the_permissions_of_one_namespace(
    service: InferenceService, elsewhere: InferenceService
) -> None:
    await service.upgrade("two")
    await service.until_ready()
    assert "status" not in await elsewhere.get(), "nobody watches that namespace"


async def test_without_nodes_to_look_at_the_scheduler_is_quoted(service: InferenceService) -> None:
    greedy = InferenceService(service.kube, "greedy")
    await greedy.apply(resources={"limits": {GPU: "99"}})
    said = await greedy.until(_is_unscheduled)
    assert condition(said, "Scheduled")["reason"] == "InsufficientGPU"
    assert f"Insufficient {GPU}" in condition(said, "Scheduled")["message"]


def _is_unscheduled(service: Json) -> bool:
    return bool(condition(service, "Scheduled").get("status") == "False")


def _helm(installation: Kube, *more: str) -> None:
    type_in(*HELM_INSTALL, *more)
    asyncio.run(until_predecessors_are_gone(installation))
