"""The engine's image of `make images` serves, without anything of the host in its pod.

A campaign test: the image is gigabytes, and elsewhere pods run the checkout (see cluster.runtime).
"""

import asyncio
import os
from collections.abc import Iterator

import pytest

from e2e.asks import SHORT_ASKS
from e2e.cluster import runtime
from e2e.cluster.places import PROJECT
from e2e.cluster.shell import run
from e2e.images import PARTS, save
from e2e.inference_service import MODEL, WEIGHTS, InferenceService
from e2e.kube import Kube
from e2e.reach import reach
from e2e.traffic import Traffic
from e2e.verdict import Outcome

pytestmark = pytest.mark.skipif(
    "OPENINFERENCE_BUILT_IMAGES" not in os.environ,
    reason="OPENINFERENCE_BUILT_IMAGES is not set: a campaign test of what `make images` built",
)
FIRST_NODE = {"kubernetes.io/hostname": "node-1"}  # the one that has the image
ARCHIVE = PROJECT / "build" / "engine.tar"


@pytest.fixture(scope="module")
def image(kube: Kube) -> Iterator[str]:
    """The built image in the first node, and a class of pods that run it as it is."""
    reference = PARTS["engine"].reference("built").removeprefix("localhost/")
    save(PARTS["engine"].reference("built"), ARCHIVE)
    run(*runtime.client(1, "images", "import", str(ARCHIVE)), timeout_seconds=1800)
    ARCHIVE.unlink()
    runs_images = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass"}
    name = {"metadata": {"name": runtime.WITHOUT_MOUNTS}, "handler": runtime.WITHOUT_MOUNTS}
    asyncio.run(kube.apply(runs_images | name))
    yield reference
    asyncio.run(kube.run("delete", "runtimeclass", runtime.WITHOUT_MOUNTS))
    run(*runtime.client(1, "images", "remove", f"docker.io/{reference}"))


async def test_the_built_image_gives_the_answers_of_the_checkout(kube: Kube, image: str) -> None:
    """In a namespace that admits restricted pods only."""
    level = "pod-security.kubernetes.io/enforce=restricted"
    await kube.run("label", "namespace", kube.namespace, level)
    checkout, built = InferenceService(kube, "checkout"), InferenceService(kube, "built")
    await checkout.apply(model={"uri": WEIGHTS, "name": "checkout"})
    await built.apply(
        engine={"image": image, "maxModelLen": 2048, "maxSequences": 32},
        podTemplate={"runtimeClassName": runtime.WITHOUT_MOUNTS, "nodeSelector": FIRST_NODE},
    )
    await checkout.until_ready()
    await built.until_ready(timeout_seconds=600)
    async with reach(kube, checkout.name, 80) as url, Traffic(url, "checkout") as traffic:
        await traffic.learn(SHORT_ASKS)
    async with reach(kube, built.name, 80) as url, Traffic(url, MODEL, traffic.references) as asked:
        results = await asyncio.gather(*(asked.send(ask) for ask in SHORT_ASKS))
    assert {each.verdict.outcome for each in results} == {Outcome.COMPLETE}, asked.report.explain()
    [pod] = await kube.list("pods", built.selector)
    mounted = await kube.run("exec", pod["metadata"]["name"], "--", "cat", "/proc/mounts")
    assert str(PROJECT) not in mounted, "the software is the image's own"
