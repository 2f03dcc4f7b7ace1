"""The operator as a process: everything is made, wired, started and stopped here."""

import asyncio
import contextlib
import logging

import aiohttp
import kopf
from prometheus_client import REGISTRY

from openinference_operator import logs
from openinference_operator.autoscaler import Autoscaler
from openinference_operator.cluster import Cluster
from openinference_operator.controller import Controller
from openinference_operator.endpoints import serve
from openinference_operator.events import Recorder
from openinference_operator.lease import Lease
from openinference_operator.metrics import ConditionMetrics, measure_loop_lag
from openinference_operator.namespace_router import NamespaceRouter
from openinference_operator.settings import Settings
from openinference_operator.signals.golden import GoldenChecks
from openinference_operator.signals.monitors import Monitors
from openinference_operator.signals.prometheus import Prometheus
from openinference_operator.signals.router_state import RouterStates
from openinference_operator.signals.survey import Survey
from openinference_operator.store import Store
from openinference_operator.tokens import Tokens
from openinference_operator.trials import Trials
from openinference_operator.triggers import Key, Triggers
from openinference_operator.watches import build_kopf_settings, build_registry, keep_listing
from openinference_operator.workers import Workers
from openinference_operator.workqueue import WorkQueue
from openinference_operator.writer import Writer

log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then release the lease."""
    logs.configure(settings.log_format)
    async with contextlib.AsyncExitStack() as stack:
        cluster = await Cluster.connect()
        stack.push_async_callback(cluster.close)
        session = await stack.enter_async_context(open_session())
        store, queue = Store(), WorkQueue[Key]()
        lease = Lease(cluster, settings.namespace, settings.pod_name)
        tokens = Tokens(cluster)
        states = RouterStates(
            session, tokens.token_of, lambda *changed: triggers.states_changed(*changed)
        )
        stack.push_async_callback(states.close)
        prometheus = Prometheus(session, settings.prometheus_url)
        golden = GoldenChecks(session, tokens.token_of)
        stack.push_async_callback(golden.close)
        triggers = Triggers(store, states, queue)
        writer, recorder = Writer(cluster, lease, store), Recorder(cluster)
        controller = Controller(
            settings=settings,
            store=store,
            lease=lease,
            writer=writer,
            recorder=recorder,
            states=states,
            router=NamespaceRouter(
                settings, store, lease, writer, recorder, tokens, Monitors(cluster)
            ),
            triggers=triggers,
            autoscaler=Autoscaler(prometheus),
            trials=Trials(prometheus, golden),
            survey=Survey(cluster),
            queue=queue,
        )
        workers = Workers(queue, lease, controller)
        conditions = ConditionMetrics(store.all_services)
        REGISTRY.register(conditions)
        stack.callback(REGISTRY.unregister, conditions)
        runner = await serve(settings.port, workers.has_started)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(lease.release)
        background = [
            asyncio.create_task(lease.keep(), name="lease"),
            asyncio.create_task(measure_loop_lag(), name="loop lag"),
            asyncio.create_task(
                keep_listing(cluster, store, triggers, settings.watch_namespace, workers.start),
                name="lists",
            ),
            *(
                asyncio.create_task(workers.work(), name=f"worker {number}")
                for number in range(settings.workers)
            ),
        ]
        log.info("operator started: identity=%s", settings.pod_name)
        watches = asyncio.create_task(
            kopf.operator(
                registry=build_registry(store, triggers),
                settings=build_kopf_settings(),
                standalone=True,
                clusterwide=not settings.watch_namespace,
                namespaces=[settings.watch_namespace] if settings.watch_namespace else [],
            ),
            name="watches",
        )
        await _until_one_ends([watches, *background])


def open_session() -> aiohttp.ClientSession:
    """Connections without a limit: a stream to every router pod never gives its own back."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def _until_one_ends(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the watches to stop on a signal; a task that fails ends the process with it."""
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await _stop([task for task in tasks if task not in ended])
    for task in ended:
        task.result()


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
