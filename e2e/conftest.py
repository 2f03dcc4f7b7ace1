"""One cluster and one installation for the whole session, one namespace for each test module.

Fixtures that outlive a test are synchronous and run their few coroutines to the end, because an
event loop belongs to one test. When a test fails, what the cluster looked like goes into its
report.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from e2e.asks import LONG_STREAMS, SHORT_ASKS, Ask
from e2e.cluster.places import PROJECT
from e2e.inference_service import MODEL, InferenceService, remove_namespace
from e2e.install import CLUSTER_UP, HELM_INSTALL, HELM_UNLOCK, SYSTEM_NAMESPACE, type_in
from e2e.kube import Kube
from e2e.leadership import until_predecessors_are_gone
from e2e.reach import reach
from e2e.reliability import Counted, title
from e2e.traffic import Traffic
from e2e.verdict import Reference

CRDS = PROJECT / "e2e" / "crds"
SECOND_NODE = "node-2"
HAS_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def installation(pytestconfig: pytest.Config) -> Kube:
    """The chart installed on a cluster, its pods running the code of this checkout."""
    system = Kube(SYSTEM_NAMESPACE)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # the first time compiles for minutes
        type_in(*CLUSTER_UP)
    type_in(*HELM_UNLOCK)
    type_in(*HELM_INSTALL)
    # The image's tag stays the same when the code changes, so an operator from an earlier run
    # would be tested otherwise.
    asyncio.run(system.run("rollout", "restart", "deployment"))
    asyncio.run(until_predecessors_are_gone(system))
    return system


@pytest.fixture(scope="module")
def kube(installation: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """kubectl in a namespace of the test module's own."""
    module = request.module.__name__.rpartition("test_")[2]
    kube = Kube(f"e2e-{module.replace('_', '-')}")
    asyncio.run(remove_namespace(kube))
    asyncio.run(kube.create_namespace())
    yield kube
    asyncio.run(remove_namespace(kube, is_awaited=False))


@pytest.fixture(scope="module")
def prometheus_operator(kube: Kube) -> Iterator[None]:
    """The kinds of Prometheus Operator, without the operator."""
    asyncio.run(kube.run("apply", "--server-side", f"--filename={CRDS}"))
    asyncio.run(
        kube.run("wait", f"--filename={CRDS}", "--for=condition=Established", "--timeout=2m")
    )
    yield
    asyncio.run(kube.run("delete", f"--filename={CRDS}"))


@pytest.fixture(scope="module")
def second_node(installation: Kube) -> Iterator[str]:
    """A second node, cordoned before and after; made when the first module needs it."""
    type_in(sys.executable, "-m", "e2e.cluster", "up", "--nodes=2")
    nodes = asyncio.run(installation.list("nodes"))
    if SECOND_NODE not in {node["metadata"]["name"] for node in nodes}:
        pytest.skip(f"this cluster calls its second node something else than {SECOND_NODE}")
    asyncio.run(installation.run("cordon", SECOND_NODE))
    yield SECOND_NODE
    asyncio.run(installation.run("cordon", SECOND_NODE))


@pytest.fixture(scope="module")
def service(kube: Kube) -> InferenceService:
    """An InferenceService with one Ready replica and seats for twenty streams."""
    service = InferenceService(kube, "demo")
    asyncio.run(service.apply())
    asyncio.run(service.until_ready())
    return service


@pytest.fixture
async def url(service: InferenceService) -> AsyncIterator[str]:
    """Where the service answers, through the routers."""
    async with reach(service.kube, service.name, 80) as url:
        yield url


@pytest.fixture(scope="session")
def references() -> dict[Ask, Reference]:
    """Right answers, learned once: every service of the session must give the same."""
    return {}


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Counted]:
    """What the campaign is told of this test: the traffic of its fixture, and what it adds."""
    counted = Counted()
    yield counted
    counted.note(title(request.node.name), failed=request.node.stash.get(HAS_FAILED, False))


@pytest.fixture
async def traffic(
    url: str, references: dict[Ask, Reference], counted: Counted
) -> AsyncIterator[Traffic]:
    """Traffic that knows the right answers and has not begun; a campaign counts it."""
    async with Traffic(url, MODEL, references) as traffic:
        await traffic.learn([*SHORT_ASKS, *LONG_STREAMS])
        references.update(traffic.references)
        yield traffic
    counted.reports.append(traffic.report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether a test failed; add what the cluster looked like to the report of a failure."""
    report = yield
    item.stash[HAS_FAILED] = item.stash.get(HAS_FAILED, False) or report.failed
    kube = getattr(item, "funcargs", {}).get("kube")
    if report.failed and isinstance(kube, Kube):
        for each in (kube, Kube(SYSTEM_NAMESPACE)):
            report.sections.append((each.namespace, asyncio.run(each.diagnostics())))
    return report
