"""The product's life in a cluster: installed, upgraded, tested, removed, installed again.

The tests run in this order and share a service. The chart of services made it under an earlier
version, whose API lacks a field and whose images have another name; spans of all go to a collector.
"""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import pytest
import yaml

from e2e.asks import SHORT_ASKS, Ask, Json
from e2e.cluster.kubectl import environment
from e2e.inference_service import MODEL, InferenceService, manifest
from e2e.install import (
    CHART,
    CLUSTER_LOAD,
    CRD,
    HELM_INSTALL,
    HELM_UNLOCK,
    SYSTEM_NAMESPACE,
    helm_install,
    type_in,
)
from e2e.kube import Kube, KubeError, command
from e2e.leadership import until_predecessors_are_gone
from e2e.load import begin
from e2e.tracing import Collector
from e2e.traffic import Traffic
from e2e.verdict import Outcome

VARIANTS = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE_OF_SERVICES = "secret/sh.helm.release.v1.services.v1"  # where Helm keeps it
# What Kubernetes makes in each namespace, and what only tells of other objects.
NOT_OURS = ("configmap/kube-root-ca.crt", "serviceaccount/default", "event", "endpoint")


@pytest.fixture(scope="module")
def collector(kube: Kube) -> Iterator[Collector]:
    collector = Collector(kube)
    asyncio.run(collector.start())
    yield collector
    asyncio.run(collector.stop())


@pytest.fixture(scope="module")
def tracing(kube: Kube) -> tuple[str, str]:
    """The value of the chart that sends spans to the collector."""
    return ("--set", f"tracing.endpoint={Collector(kube).endpoint}")


@pytest.fixture(scope="module")
def earlier(
    installation: Kube, tracing: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """An earlier version in place of the present one, which comes back at the end."""
    chart = _earlier_chart(tmp_path_factory.mktemp("charts") / "openinference")
    try:
        type_in(*CLUSTER_LOAD, "--tag", "earlier")
        type_in(*helm_install(str(chart)), "--set", "image.tag=earlier", *tracing)
        yield
    finally:
        type_in(*HELM_UNLOCK)
        type_in(*HELM_INSTALL)
        asyncio.run(until_predecessors_are_gone(installation))


@pytest.fixture(scope="module")
def service(kube: Kube, earlier: None, collector: Collector) -> InferenceService:
    """Made by the chart of services, as a user would who declares them beside the product."""
    service = InferenceService(kube, "demo")
    services = {service.name: manifest(service.name, {})["spec"]}
    type_in(
        *("helm", "install", "services", "charts/openinference-services"),
        *("--namespace", kube.namespace, "--set-json", f"services={json.dumps(services)}"),
    )
    asyncio.run(service.until_ready())
    return service


async def test_an_upgrade_of_the_product_changes_its_api_and_loses_no_request(
    service: InferenceService, traffic: Traffic, installation: Kube, tracing: tuple[str, str]
) -> None:
    engines = await _pods(service.kube, "engine")
    with pytest.raises(KubeError, match="unknown field"):
        await _try_the_new_field(service.kube)
    await begin(traffic)
    await asyncio.to_thread(type_in, *HELM_INSTALL, *tracing)
    await _until_routers_run(service.kube, "openinference/operator:dev")
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    await _try_the_new_field(service.kube)
    assert await _pods(service.kube, "engine") == engines, "a new product rolls no engine"
    [operator] = await installation.list("deployments")
    assert operator["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":dev")


def test_helm_test_passes(earlier: None) -> None:
    words = ("helm", "test", "openinference", "--namespace", SYSTEM_NAMESPACE, "--logs")
    done = subprocess.run(
        [*words, "--timeout", "2m"], env=os.environ | environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_one_trace_shows_the_caller_the_router_and_the_engine(
    url: str, collector: Collector
) -> None:
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)
    async with aiohttp.ClientSession(url) as client:
        body = Ask("Name three colours.", max_tokens=8, is_streamed=False).body(MODEL)
        headers = {"traceparent": f"00-{trace}-{caller}-01"}
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status == 200
    router, engine = await collector.spans(trace, 2)
    assert [each["service"] for each in (router, engine)] == [
        "openinference-router",
        "openinference-engine",
    ]
    assert (router["parent"], engine["parent"]) == (caller, router["span"])
    assert 0 < engine["seconds"] < router["seconds"]


async def test_the_api_server_accepts_every_variant_of_the_values(
    earlier: None, prometheus_operator: None
) -> None:
    """Under another name than the installation's, whose objects may not change in all fields."""
    assert VARIANTS
    async with asyncio.TaskGroup() as group:
        for path in VARIANTS:
            group.create_task(_dry_run(path))


async def test_services_go_on_after_an_uninstall_that_leaves_what_is_documented(
    service: InferenceService, traffic: Traffic
) -> None:
    """docs/how-to/uninstall.md"""
    await command(
        *("helm", "uninstall", "openinference", "--namespace", SYSTEM_NAMESPACE),
        *("--wait", "--timeout=2m"),
    )
    await _until_left(
        Kube(SYSTEM_NAMESPACE),
        {"lease.coordination.k8s.io/openinference-operator", "pod/openinference-test"},
    )
    kinds = "crds,clusterroles,clusterrolebindings"
    ours = "--selector=app.kubernetes.io/instance=openinference"
    left = await command("kubectl", "get", kinds, ours, "--output=name")
    assert left.split() == [f"customresourcedefinition.apiextensions.k8s.io/{CRD}"]
    results = await asyncio.gather(*(traffic.send(ask) for ask in SHORT_ASKS))
    assert {each.verdict.outcome for each in results} == {Outcome.COMPLETE}


async def test_the_product_can_be_installed_where_nothing_of_it_is_left(
    service: InferenceService, earlier: None
) -> None:
    """The last step of docs/how-to/uninstall.md, and the first of the quick start.

    Every InferenceService of the cluster goes with the CRD, also of other namespaces.
    """
    await command("kubectl", "delete", "crd", CRD)
    await _until_left(service.kube, {"pod/collector", "service/collector", RELEASE_OF_SERVICES})
    await asyncio.to_thread(type_in, *HELM_INSTALL)
    await command(*("kubectl", "wait", f"crd/{CRD}", "--for=condition=Established", "--timeout=2m"))


def _earlier_chart(chart: Path) -> Path:
    """The chart as it might have been: an older number, and an API without annotations of pods."""
    shutil.copytree(CHART, chart)
    _edit(chart / "Chart.yaml", lambda about: about.update(version="0.0.9"))
    _edit(chart / "files/crds" / f"openinference.dev_{CRD.partition('.')[0]}.yaml", _forget_field)
    return chart


def _forget_field(crd: Json) -> None:
    for version in crd["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        del spec["podTemplate"]["properties"]["annotations"]


def _edit(path: Path, change: Callable[[Json], None]) -> None:
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))


async def _try_the_new_field(kube: Kube) -> None:
    """Raises KubeError where the API does not know it."""
    with_field = manifest("new", {"podTemplate": {"annotations": {"example.com/a": "b"}}})
    await kube.run(
        *("create", "--dry-run=server", "--validate=strict", "--filename=-"),
        stdin=json.dumps(with_field),
    )


async def _pods(kube: Kube, component: str) -> list[str]:
    found = await kube.list("pods", f"app.kubernetes.io/component={component}")
    return [each["metadata"]["uid"] for each in found]


async def _until_routers_run(kube: Kube, image: str) -> None:
    """The Deployment asks for the image, and all its pods, old ones gone, are of it."""

    def is_asked_for(deployments: Sequence[Json]) -> bool:
        return [_image(each["spec"]["template"]) for each in deployments] == [image]

    def is_so(pods: Sequence[Json]) -> bool:
        return len(pods) == 2 and all(_image(each) == image for each in pods)

    await kube.until("deployments", is_asked_for, 120)
    await kube.until("pods", is_so, 180, "app.kubernetes.io/component=router")


def _image(pod: Json) -> str:
    return str(pod["spec"]["containers"][0]["image"])


async def _dry_run(values: Path) -> None:
    """All but the pod of `helm test`, whose ServiceAccount would have to be there."""
    rendered = await command(
        *("helm", "template", "trial", str(CHART), "--namespace=default", "--no-hooks"),
        *("--kube-version=1.34.0", f"--values={values}"),
    )
    try:
        await command(
            *("kubectl", "apply", "--dry-run=server", "--validate=strict", "--filename=-"),
            stdin=rendered,
        )
    except KubeError as error:
        raise AssertionError(f"{values.name}: {error}") from error


async def _until_left(kube: Kube, known: set[str]) -> None:
    """Nothing is in the namespace but some of this, and what Kubernetes puts into each one."""
    kinds = await kube.run("api-resources", "--namespaced", "--verbs=list", "--output=name")
    # Not of the API that goes: the API server may list it a moment longer than it answers.
    listing = ("get", ",".join(kind for kind in kinds.split() if kind != CRD), "--output=name")
    left: set[str] = set()
    try:
        async with asyncio.timeout(120):
            while True:
                found = (await kube.run(*listing)).split()
                left = {each for each in found if not each.startswith(NOT_OURS)} - known
                if not left:
                    return
    except TimeoutError:
        raise AssertionError(f"left in {kube.namespace}: {left}") from None
