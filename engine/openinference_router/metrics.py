"""What Prometheus may ask. Labels are bounded: services come from the operator, codes from HTTP.

What a service knows of itself is read from it at each scrape, so a deleted service leaves no
series.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from openinference_router.service import Service
from openinference_router.trace import CLIENT_GONE, Trace

_ADDED_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
_HELD_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600)
_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)
_LABELS = ("inference_namespace", "inference_service", "component")


class Metrics:
    """One registry per router; `text` is what Prometheus gets."""

    def __init__(
        self,
        namespace: str,
        services: Callable[[], Iterable[Service]],
        keys: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.registry = CollectorRegistry()
        self._namespace = namespace
        self._services = services
        self._keys = keys
        self._seen: set[tuple[str, str]] = set()
        self.registry.register(_ServiceMetrics(namespace, services))
        self._requests = Counter(
            "openinference_router_requests",
            "Requests ended, by service and status (499: the client went away)",
            ("inference_namespace", "inference_service", "code"),
            registry=self.registry,
        )
        self._retries = Counter(
            "openinference_router_retries",
            "Attempts that failed and were made again elsewhere or later",
            ("inference_service",),
            registry=self.registry,
        )
        self._added = Histogram(
            "openinference_router_added_seconds",
            "Time that the router itself adds to the first byte of an answer",
            buckets=_ADDED_BUCKETS,
            registry=self.registry,
        )
        self._held = Histogram(
            "openinference_router_held_seconds",
            "Time that requests waited here for a seat",
            ("inference_service",),
            buckets=_HELD_BUCKETS,
            registry=self.registry,
        )

        revision_labels = ("inference_namespace", "inference_service", "revision")
        self._attempts = Counter(
            "openinference_router_attempts",
            "Attempts to answer a request, by revision and outcome (ok, failed, declined by a full "
            "or draining replica, moved before a drain ends); the operator judges a canary by them",
            (*revision_labels, "outcome"),
            registry=self.registry,
        )
        self._first_token = Histogram(
            "openinference_router_first_token_seconds",
            "From the arrival of a streamed request to the first byte of its answer",
            revision_labels,
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )

        self._key_requests = Counter(
            "openinference_router_key_requests",
            "Requests ended, by the name of their API key and status",
            ("key", "code"),
            registry=self.registry,
        )
        self._key_tokens = Counter(
            "openinference_router_key_tokens",
            "Tokens of prompts and answers, by the name of the API key; approximate for streams "
            "without usage",
            ("key",),
            registry=self.registry,
        )
        self._certificate_expiry = Gauge(
            "openinference_router_certificate_expiry_timestamp_seconds",
            "When the certificate of the port for TLS ends; absent without one",
            ("inference_namespace",),
            registry=self.registry,
        )

    def text(self) -> bytes:
        self._forget_what_is_gone()
        return generate_latest(self.registry)

    def certificate_loaded(self, expires_at: float) -> None:
        """`expires_at`: seconds since 1970, NaN where that is not known."""
        self._certificate_expiry.labels(self._namespace).set(expires_at)

    def _forget_what_is_gone(self) -> None:
        """Drop series of services, revisions and keys that are no more; begin those that are."""
        alive = {("key", key) for key in self._keys()}
        for service in self._services():
            alive.add(("inference_service", service.name))
            for group in service.groups.values():
                alive.add(("revision", group.routed.revision))
                self._know_revision(service.name, group.routed.revision)
        for label, value in self._seen - alive:
            for metric in self._labelled[label]:
                metric.remove_by_labels({label: value})
        self._seen = alive

    @property
    def _labelled(self) -> dict[str, list[Counter | Histogram]]:
        by_revision: list[Counter | Histogram] = [self._attempts, self._first_token]
        return {
            "key": [self._key_requests, self._key_tokens],
            "revision": by_revision,
            "inference_service": [self._requests, self._retries, self._held, *by_revision],
        }

    def ended(self, trace: Trace) -> None:
        if trace.key:
            self._key_requests.labels(trace.key, str(trace.code)).inc()
            self._key_tokens.labels(trace.key).inc(trace.num_tokens)
            self._seen.add(("key", trace.key))
        if trace.service:
            self._seen.add(("inference_service", trace.service))
        self._requests.labels(self._namespace, trace.service, str(trace.code)).inc()
        if trace.service:
            self._held.labels(trace.service).observe(trace.held_seconds)
        if trace.failures:
            self._retries.labels(trace.service).inc(len(trace.failures))
        elif trace.added_seconds is not None:
            self._added.observe(trace.added_seconds)
        if trace.groups:
            self._attempts_ended(trace)

    def _know_revision(self, service: str, revision: str) -> None:
        """Begin the counters of a revision at 0: `increase` does not see what begins above."""
        for outcome in ("ok", "failed"):
            self._attempts.labels(self._namespace, service, revision, outcome)
        self._first_token.labels(self._namespace, service, revision)

    def _attempts_ended(self, trace: Trace) -> None:
        """Count each attempt for its revision. One that its client left speaks for nobody."""
        for group, outcome in zip(trace.groups, _outcomes(trace), strict=False):
            labels = (self._namespace, trace.service, _revision_of(group))
            self._seen.add(("revision", labels[-1]))
            self._attempts.labels(*labels, outcome).inc()
        if trace.first_token_seconds is not None:
            labels = (self._namespace, trace.service, _revision_of(trace.groups[-1]))
            self._first_token.labels(*labels).observe(trace.first_token_seconds)


def _outcomes(trace: Trace) -> list[str]:
    """What became of each attempt in turn; every failure but the last was followed by another."""
    if trace.code == CLIENT_GONE:
        return trace.outcomes
    return [*trace.outcomes, "failed" if trace.code >= 500 else "ok"]


def _revision_of(group: str) -> str:
    """A group's name is `<service>-<revision>-<n>` (docs/wire.md)."""
    return group.rsplit("-", 2)[-2] if group.count("-") >= 2 else ""


class _ServiceMetrics(Collector):
    def __init__(
        self,
        namespace: str,
        services: Callable[[], Iterable[Service]],
    ) -> None:
        self._namespace = namespace
        self._services = services

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "openinference_requests_waiting",
            "Requests that wait in this process and nowhere else",
            labels=_LABELS,
        )
        in_flight = GaugeMetricFamily(
            "openinference_router_in_flight",
            "Requests of this router inside engines",
            labels=_LABELS,
        )
        admitted = GaugeMetricFamily(
            "openinference_router_groups_admitted",
            "Replicas that this router sends requests to",
            labels=_LABELS,
        )
        tokens = CounterMetricFamily(
            "openinference_router_output_tokens",
            "Tokens of answers that went to clients",
            labels=_LABELS,
        )
        per_token = HistogramMetricFamily(
            "openinference_router_time_per_output_token_seconds",
            "Streams: mean time per token after the first ones",
            labels=_LABELS,
        )
        by_group = [*_LABELS, "group"]
        inside = GaugeMetricFamily(
            "openinference_router_group_in_flight",
            "Requests of this router inside one replica",
            labels=by_group,
        )
        ejected = GaugeMetricFamily(
            "openinference_router_group_ejected",
            "1 while a replica gets no requests because it failed some",
            labels=by_group,
        )
        for service in self._services():
            for group in service.groups.values():
                whose = (self._namespace, service.name, "router", group.id)
                inside.add_metric(whose, group.in_flight)
                ejected.add_metric(whose, group.is_ejected)
            labels, meter = (self._namespace, service.name, "router"), service.meter
            waiting.add_metric(labels, service.held)
            in_flight.add_metric(labels, service.in_flight)
            admitted.add_metric(labels, service.num_admitted)
            tokens.add_metric(labels, meter.num_tokens)
            times = meter.per_token
            per_token.add_metric(labels, times.cumulative(), times.sum_seconds)
        yield from (waiting, in_flight, admitted, tokens, per_token, inside, ejected)
