"""The story, chapter by chapter: from nothing to an upgrade that loses no request.

Each chapter shows the commands that a user could type, does just that, and ends when the cluster
says that it is so, never because time has passed.
"""

import asyncio
import json
import shlex
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import aiohttp
from rich.text import Text

from e2e.asks import Ask, Json, long_streams, mixed_asks
from e2e.demo.prometheus import TIMEOUT, instant_value, waiting_query
from e2e.demo.screen import Screen
from e2e.demo.ticks import at_least_every
from e2e.demo.views import conditions_view, rollout_view, scaling_view
from e2e.exchange import Transcript, exchange
from e2e.inference_service import MODEL, InferenceService, is_ready, remove_namespace
from e2e.install import CLUSTER_UP, HELM_INSTALL, HELM_UNLOCK
from e2e.kube import Kube, command
from e2e.reach import reach
from e2e.report import Report
from e2e.traffic import Traffic
from e2e.verdict import References

NAMESPACE = "demo"
SAMPLE = "docs/examples/smollm2.yaml"
SERVICE = InferenceService(Kube(NAMESPACE), "smollm2")
QUESTION = Ask("What is the capital of France, and what is it known for?", max_tokens=96)

# Ten clients meet the sample's two seats per replica and its target of two that wait.
CLIENTS = 10
STREAMS = long_streams(max_tokens=32, prompts=2)
SHORT = mixed_asks(max_tokens=8)[:4]
CHAPTER_TIMEOUT_SECONDS = 240.0


class StoryError(Exception):
    """The story cannot go on; the message is one sentence with the remedy."""


async def tell(screen: Screen) -> None:
    """Tell it all; raises StoryError, KubeError or TrafficError where the cluster breaks off."""
    start_cluster(screen)
    await install(screen)
    await deploy(screen)
    async with (
        reach(SERVICE.kube, SERVICE.name, 80) as url,
        reach(Kube("monitoring"), "prometheus", 9090) as prometheus_url,
    ):
        await chat(screen, url)
        references = await learn(screen, url)
        async with Traffic(url, MODEL, references) as traffic:
            await scale(screen, traffic, url, prometheus_url)
        async with Traffic(url, MODEL, references) as traffic:
            await upgrade(screen, traffic)
        await say_goodbye(screen, url, prometheus_url)


def start_cluster(screen: Screen) -> None:
    screen.chapter("A cluster", "A real Kubernetes on this machine; the first time compiles it.")
    screen.command(CLUSTER_UP)
    if code := subprocess.run(CLUSTER_UP, check=False).returncode:
        raise SystemExit(code)  # it has said why, and what to do
    screen.command('eval "$(.venv/bin/python -m e2e.cluster env)"')
    screen.say("[dim]Now kubectl and helm speak to it; type that to follow along.")


async def install(screen: Screen) -> None:
    screen.chapter("The operator", "One Helm chart brings the CRD, the operator and its rights.")
    await command(*HELM_UNLOCK)
    await _type(screen, *HELM_INSTALL, "--hide-notes")


async def deploy(screen: Screen) -> None:
    screen.chapter("A model", "A few lines of YAML name a model; the conditions tell the rest.")
    screen.file(SAMPLE)
    await remove_namespace(SERVICE.kube)  # of an earlier run
    await _type(screen, "kubectl", "create", "namespace", NAMESPACE)
    await _type(screen, "kubectl", "apply", f"--namespace={NAMESPACE}", f"--filename={SAMPLE}")
    screen.command(f"kubectl get infsvc --namespace={NAMESPACE} --output=yaml --watch")
    async with _patience("The service did not become Ready"):
        with screen.live() as live:
            async for service in _states_until(is_ready):
                live.update(conditions_view(service))


async def chat(screen: Screen, url: str) -> None:
    screen.chapter("An answer", "Any OpenAI client will do; the router finds the replica.")
    body = json.dumps(QUESTION.body(MODEL))
    screen.command(
        f"curl --no-buffer {url}/v1/chat/completions "
        f"--header 'content-type: application/json' --data {shlex.quote(body)}"
    )
    screen.say(f"[dim]{QUESTION.prompt}")
    seen = Transcript(QUESTION)
    with screen.live() as live:
        await _ask(url, seen, lambda: live.update(Text(seen.text, "green")))
    if seen.trouble or not seen.text:
        raise StoryError(f"No answer came: {seen.detail}. Look at the logs of the router.")
    per_second = (seen.completion_tokens or 0) / seen.duration_seconds
    screen.say(
        f"[dim]first token after {seen.time_to_first_token_seconds:.2f} s, {per_second:.0f} "
        f"tokens/s, answered by {seen.group}"
    )


async def learn(screen: Screen, url: str) -> References:
    screen.say(
        "Before anything disturbs the replica it answers a few more questions: the right answers, "
        "with which every request from here on is compared."
    )
    async with Traffic(url, MODEL) as traffic:
        await traffic.learn([*STREAMS, *SHORT])
        return traffic.references


async def scale(screen: Screen, traffic: Traffic, url: str, prometheus_url: str) -> None:
    screen.chapter("Load", f"{CLIENTS} clients, two seats: a queue grows, and replicas follow it.")
    query = waiting_query(NAMESPACE, SERVICE.name)
    screen.command(f".venv/bin/python -m e2e.traffic --url {url} --rate 0 --streams {CLIENTS}")
    question = shlex.quote(f"query={query}")
    screen.command(f"curl --silent {prometheus_url}/api/v1/query --data-urlencode {question}")
    traffic.keep(CLIENTS, STREAMS)
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:

        async def waiting() -> float | None:
            return await instant_value(session, prometheus_url, query)

        async with _patience("No second replica came"):
            grown = await _chart_until(screen, waiting, lambda each: _replicas(each) == 2)
        screen.say(f"1 → 2 replicas, by the queue that {_source(grown)} measured. The load ends.")
        traffic.stop()
        async with _patience("The second replica did not go"):
            shrunk = await _chart_until(
                screen, waiting, lambda each: _replicas(each) == 1 and is_ready(each)
            )
        screen.say(f"2 → 1 replicas, by the queue that {_source(shrunk)} measured.")
    _require_nothing_lost(screen, await traffic.finish())


async def upgrade(screen: Screen, traffic: Traffic) -> None:
    screen.chapter("An upgrade under traffic", "A new revision; the old one drains, not dies.")
    traffic.keep(2, STREAMS)
    traffic.keep(1, SHORT)
    await traffic.until_streaming(1)
    change = json.dumps({"spec": {"engine": {"maxModelLen": 1024}}})
    words = ("patch", "infsvc", SERVICE.name, "--type=merge", f"--patch={change}")
    await _type(screen, "kubectl", *words, f"--namespace={NAMESPACE}")
    async with _patience("The upgrade did not come to its end"):
        with screen.live() as live:
            async for service in _states_until(is_ready):
                live.update(rollout_view(service, traffic.report))
    report = await traffic.finish()
    screen.console.print(report.table())
    _require_nothing_lost(screen, report)


async def say_goodbye(screen: Screen, url: str, prometheus_url: str) -> None:
    screen.chapter("What is left", "It all goes on running until you remove it.")
    await _type(screen, "kubectl", "get", "infsvc", f"--namespace={NAMESPACE}")
    question = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]})
    screen.say("\nTo chat:")
    lasting_url = _lasting_url(screen, url, f"--namespace={NAMESPACE} service/{SERVICE.name}", 80)
    screen.command(
        f"curl {lasting_url}/v1/chat/completions --header 'content-type: application/json' "
        f"--data {shlex.quote(question)}"
    )
    screen.say("To see its metrics, open Prometheus:")
    service = "--namespace=monitoring service/prometheus"
    screen.command(f"xdg-open {_lasting_url(screen, prometheus_url, service, 9090)}")
    screen.say("To remove the cluster and all in it:")
    screen.command("make demo-down")


def _lasting_url(screen: Screen, url: str, service: str, port: int) -> str:
    """The URL when the demo has ended, and the forwarding of ports that it made with it."""
    if not url.startswith("http://127.0.0.1"):
        return url
    local_port = 8000 + port
    screen.command(f"kubectl port-forward {service} {local_port}:{port} &")
    return f"http://127.0.0.1:{local_port}"


async def _ask(url: str, seen: Transcript, on_progress: Callable[[], None]) -> None:
    async with aiohttp.ClientSession() as session:
        await exchange(session, url, MODEL, seen, CHAPTER_TIMEOUT_SECONDS, on_progress)


async def _type(screen: Screen, *words: str) -> None:
    """Show a command, run it, show what it printed."""
    screen.command(words)
    screen.output(await command(*words))


@asynccontextmanager
async def _patience(what_failed: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(CHAPTER_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        raise StoryError(
            f"{what_failed} within {CHAPTER_TIMEOUT_SECONDS:.0f} s; `kubectl describe infsvc "
            f"--namespace={NAMESPACE}` says what holds it up."
        ) from None


async def _states_until(is_reached: Callable[[Json], bool]) -> AsyncGenerator[Json]:
    """Every state of the service, up to the first that is wanted."""
    async with aclosing(SERVICE.states()) as states:
        async for service in states:
            yield service
            if is_reached(service):
                return


async def _chart_until(
    screen: Screen,
    waiting: Callable[[], Awaitable[float | None]],
    is_reached: Callable[[Json], bool],
) -> Json:
    """Draw the queue twice a second until the service is in the state that is wanted."""
    values: list[float] = []
    service: Json = {}
    with screen.live() as live:
        async for service in at_least_every(0.5, _states_until(is_reached)):
            value = await waiting()
            if value is not None:
                values.append(value)
            live.update(scaling_view(service, values))
    return service


def _source(service: Json) -> str:
    """Who measured the queue: Prometheus, or the routers where it is lost."""
    return str(service["status"]["scaling"]["inputs"][0]["source"])


def _replicas(service: Json) -> int:
    return int(service.get("status", {}).get("routableReplicas", 0))


def _require_nothing_lost(screen: Screen, report: Report) -> None:
    screen.say(f"Requests: [bold]{report.counts()}[/].")
    if report.lost or report.refused:
        raise StoryError(f"An upgrade or a scaling must cost no request: {report.explain()}")
