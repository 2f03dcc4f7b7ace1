"""The series that the engine exports to Prometheus: their names, labels and buckets.

`vllm:` names where one exists, so that dashboards and endpoint pickers made for it work;
`openinference_` for the rest (docs/wire.md).
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from openinference_engine.config import ServerConfig
from openinference_engine.core.heartbeat import Heartbeat

_FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
# Finer below 10 ms than elsewhere: a fast decode step is shorter than vLLM's first bucket.
_TOKEN_SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
_REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_CHOICES = (1, 2, 5, 10, 20, 50, 100)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Series:
    """model, own: the labels that each series of a model and each one of the engine itself has."""

    def __init__(self, server: ServerConfig, model_name: str, heartbeat: Heartbeat) -> None:
        # Else each counter has a second series that nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        place = {"inference_namespace": server.namespace, "inference_service": server.service}
        self.model = {"model_name": model_name, "engine": "0"} | place
        self.own = place | {"component": "engine"}
        self._make_gauges(heartbeat)
        self._make_counters()
        self._make_histograms()

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _make_gauges(self, heartbeat: Heartbeat) -> None:
        self.running = self._gauge("vllm:num_requests_running", "Sequences that are computed.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Sequences that wait for a seat.")
        self.waiting_by_reason = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Sequences that wait: for a seat (capacity) or for cache blocks (deferred).",
            [*self.model, "reason"],
            registry=self.registry,
        )
        self.kv_usage = self._gauge("vllm:kv_cache_usage_perc", "Share of cache blocks held, 0–1.")
        self.gpu_cache_usage = self._gauge(
            "vllm:gpu_cache_usage_perc", "The former name of kv_cache_usage_perc."
        )
        self.cache_info = Gauge(
            "vllm:cache_config_info",
            "Size of the KV cache, and how it keeps keys and values.",
            [*self.model, "block_size", "num_gpu_blocks", "cache_dtype"],
            registry=self.registry,
        )
        self.kernel_info = Gauge(
            "openinference_kernel_info",
            "The kernels that compute, those of each kind of operation, and whether graphs replay "
            "steps.",
            [*self.own, "path", "products", "prompts", "attention", "drawing", "graphs"],
            registry=self.registry,
        )
        self.own_running = self._own_gauge("requests_running", "Sequences that are computed.")
        self.own_waiting = self._own_gauge("requests_waiting", "Sequences that wait for a seat.")
        self.queued_tokens = self._own_gauge(
            "queued_tokens", "Prompt tokens that are not computed yet."
        )
        self.prefill_speed = self._own_gauge(
            "prefill_tokens_per_second", "Measured speed of prefill."
        )
        self.decode_speed = self._own_gauge(
            "decode_tokens_per_second", "Measured speed of decoding, of the whole engine."
        )
        self.start_seconds = Gauge(
            "openinference_start_stage_seconds",
            "How long each stage of the start took.",
            [*self.own, "stage"],
            registry=self.registry,
        )
        age = self._own_gauge("last_step_age_seconds", "Time since a step began or ended.")
        age.set_function(lambda: heartbeat.age_seconds)
        steps = self._own_gauge("engine_steps_total", "Steps and self-probes so far.")
        steps.set_function(lambda: heartbeat.num_steps)

    def _make_counters(self) -> None:
        self.preemptions = self._counter("vllm:num_preemptions", "Sequences that lost their seat.")
        self.prompt_tokens = self._counter(
            "vllm:prompt_tokens", "Prompt tokens computed or cached."
        )
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens drawn.")
        self.prefix_queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up.")
        self.prefix_hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found cached.")
        self.prompt_tokens_cached = self._counter(
            "vllm:prompt_tokens_cached", "Prompt tokens that the prefix cache saved."
        )
        self.successes = Counter(
            "vllm:request_success",
            "Sequences that ended, by how.",
            [*self.model, "finished_reason"],
            registry=self.registry,
        )

    def _make_histograms(self) -> None:
        self.first_token_seconds = self._histogram(
            "vllm:time_to_first_token_seconds", "From arrival.", _FIRST_TOKEN_SECONDS
        )
        self.token_seconds = self._histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens.", _TOKEN_SECONDS
        )
        self.time_per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean of a sequence.", _TOKEN_SECONDS
        )
        self.request_seconds = self._histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to last token.", _REQUEST_SECONDS
        )
        self.prefill_seconds = self._histogram(
            "vllm:request_prefill_time_seconds", "Arrival to first token.", _REQUEST_SECONDS
        )
        self.decode_seconds = self._histogram(
            "vllm:request_decode_time_seconds", "First to last token.", _REQUEST_SECONDS
        )
        self.queue_seconds = self._histogram(
            "vllm:request_queue_time_seconds", "Arrival to first step.", _REQUEST_SECONDS
        )
        self.inference_seconds = self._histogram(
            "vllm:request_inference_time_seconds", "First step to last token.", _REQUEST_SECONDS
        )
        self.prefill_length = self._histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens not cached.", _TOKENS
        )
        self.params_n = self._histogram("vllm:request_params_n", "Choices asked for.", _CHOICES)
        self.params_max_tokens = self._histogram(
            "vllm:request_params_max_tokens", "Longest answer allowed.", _TOKENS
        )
        self.longest_output = self._histogram(
            "vllm:request_max_num_generation_tokens", "Longest answer of a request.", _TOKENS
        )
        self.step_tokens = self._histogram(
            "vllm:iteration_tokens_total", "Tokens computed by a step.", _STEP_TOKENS
        )
        self.prompt_length = self._histogram(
            "vllm:request_prompt_tokens", "Prompt lengths.", _TOKENS
        )
        self.output_length = self._histogram(
            "vllm:request_generation_tokens", "Output lengths.", _TOKENS
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, list(self.model), registry=self.registry).labels(**self.model)

    def _own_gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"openinference_{name}", text, list(self.own), registry=self.registry)
        return gauge.labels(**self.own)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(name, text, list(self.model), registry=self.registry)
        return counter.labels(**self.model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, list(self.model), buckets=buckets, registry=self.registry)
        return histogram.labels(**self.model)
