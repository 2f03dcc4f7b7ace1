"""The router process: start both listeners, follow the routing, and leave without cutting anybody.

Start and stop are one function each way (`async with`), so what was opened is closed in order.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from kubernetes.aio import client

from openinference_router.app import client_app, internal_app
from openinference_router.configmaps import watch_routing
from openinference_router.dashboard.cluster import ClusterView
from openinference_router.dashboard.history import LiveHistory
from openinference_router.dashboard.pages import Dashboard
from openinference_router.dashboard.prometheus import PrometheusHistory
from openinference_router.documents import Documents
from openinference_router.door import Door, make_runner
from openinference_router.keys import KeyRing
from openinference_router.keysecret import KeySecret
from openinference_router.metrics import Metrics
from openinference_router.proxy import Proxy
from openinference_router.router import Router
from openinference_router.settings import Settings
from openinference_router.spans import Spans
from openinference_router.tls import Certificate, renewals
from openinference_router.watch import cluster_api

_log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain."""
    token = settings.token()
    async with _engine_session() as session:
        router = Router(
            session,
            name=settings.pod_name,
            namespace=settings.namespace,
            token=token,
            replicas=settings.replicas,
        )
        proxy = Proxy(
            session,
            router.select,
            token,
            keep_alive_seconds=settings.keep_alive_seconds,
            stall_timeout_seconds=settings.stall_timeout_seconds,
            first_token_timeout_seconds=settings.first_token_timeout_seconds,
            body_timeout_seconds=settings.body_timeout_seconds,
        )
        keys = KeyRing(is_known=not settings.keys_secret, replicas=settings.replicas)
        metrics = Metrics(settings.namespace, router.services, keys.names)
        spans = (
            Spans(settings.otlp_endpoint, settings.namespace) if settings.otlp_endpoint else None
        )
        clients = client_app(router, proxy, keys, metrics, settings.max_body_bytes, spans)
        clients.add_routes(Documents(router, session, token).routes())
        history = LiveHistory(router.services)
        clients.add_routes(_dashboard(router, keys, history, session, settings).routes())
        internal = internal_app(router, keys, metrics, token)
        async with (
            _listening(internal, settings.host, farewell_seconds=0.1) as inside,
            _listening(clients, settings.host, farewell_seconds=5) as door,
            _following(router, keys, metrics, history, door, settings),
        ):
            await inside.open(settings.internal_port)
            await door.open(settings.client_port)
            _log.info("router started", extra={"namespace": settings.namespace})
            await _termination()
            await _drain(router, door, settings)
            await router.close()
        if spans is not None:
            await asyncio.to_thread(spans.close)
    _log.info("router ended")


def _dashboard(
    router: Router,
    keys: KeyRing,
    history: LiveHistory,
    session: aiohttp.ClientSession,
    settings: Settings,
) -> Dashboard:
    """The page about this namespace, its history from Prometheus where there is one."""
    view, url = ClusterView(settings.namespace), settings.prometheus_url
    source = PrometheusHistory(session, url, settings.namespace, history) if url else history
    return Dashboard(router, keys, view, source.document)


async def _drain(router: Router, door: Door, settings: Settings) -> None:
    """Say so, wait until nobody comes any more, close the door, let those inside finish."""
    _log.info("router drains", extra={"open": router.open_requests})
    router.drain()
    await asyncio.sleep(settings.endpoint_pause_seconds)
    await door.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_timeout_seconds):
            await router.idle()
    _log.info("router drained", extra={"cut": router.open_requests})


def _engine_session() -> aiohttp.ClientSession:
    """Connections to engines: as many as there are requests, kept a little, never through a proxy.

    Names are looked up again after a second: a replica that restarts has a new address.
    """
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=1, keepalive_timeout=30)
    return aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=("Accept-Encoding",)
    )


@contextlib.asynccontextmanager
async def _listening(
    app: web.Application, host: str, *, farewell_seconds: float
) -> AsyncIterator[Door]:
    """Serve `app`; at the end, handlers get `farewell_seconds` to write their last bytes."""
    runner = make_runner(app, farewell_seconds)
    await runner.setup()
    try:
        yield Door(runner, host)
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _following(
    router: Router,
    keys: KeyRing,
    metrics: Metrics,
    history: LiveHistory,
    door: Door,
    settings: Settings,
) -> AsyncIterator[None]:
    """Keep routing, keys, certificate and history up to date; a failure here ends the process."""

    async def follow_routing() -> None:
        async for routings in watch_routing(api, settings.namespace).snapshots():
            router.apply(routings)

    async def follow_keys() -> None:
        secret = KeySecret(client.CoreV1Api(api), settings.namespace, settings.keys_secret)
        async for known in secret.snapshots():
            keys.replace(known)

    async def follow_certificate() -> None:
        certificate, core = Certificate(), client.CoreV1Api(api)
        async for _ in renewals(certificate, core, settings.namespace, settings.tls_secret):
            await door.open(settings.tls_port, certificate.context)
            metrics.certificate_loaded(certificate.expires_at)

    async with cluster_api() as api, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(follow_routing(), name="routing"),
            group.create_task(history.run(), name="history"),
        ]
        if settings.keys_secret:
            tasks.append(group.create_task(follow_keys(), name="keys"))
        if settings.tls_secret:
            tasks.append(group.create_task(follow_certificate(), name="certificate"))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _termination() -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
