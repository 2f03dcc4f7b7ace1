"""What happens in the engine, as its series tell it."""

from __future__ import annotations

from dataclasses import dataclass

from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.core.heartbeat import Heartbeat
from openinference_engine.core.messages import Loaded, Progress
from openinference_engine.server.series import Series


@dataclass(slots=True)
class Timing:
    """Moments of one sequence on the monotonic clock."""

    arrived: float
    queue_seconds: float = 0.0
    first_token: float | None = None
    last_token: float | None = None


class Metrics:
    def __init__(self, server: ServerConfig, model_name: str, heartbeat: Heartbeat) -> None:
        self._series = Series(server, model_name, heartbeat)
        self._num_preemptions = 0

    def render(self) -> bytes:
        return self._series.render()

    def progress(self, progress: Progress, max_sequences: int) -> None:
        """Takes the report of one step."""
        series, status = self._series, progress.status
        waiting = status.waiting
        series.running.set(status.running)
        series.own_running.set(status.running)
        series.waiting.set(waiting)
        series.own_waiting.set(waiting)
        by_seats = waiting if status.running >= max_sequences else 0
        series.waiting_by_reason.labels(**series.model, reason="capacity").set(by_seats)
        series.waiting_by_reason.labels(**series.model, reason="deferred").set(waiting - by_seats)
        series.kv_usage.set(status.kv_usage)
        series.gpu_cache_usage.set(status.kv_usage)
        series.queued_tokens.set(status.queued_tokens)
        series.prefill_speed.set(status.prefill_tokens_per_second)
        series.decode_speed.set(status.decode_tokens_per_second)
        series.preemptions.inc(status.preemptions - self._num_preemptions)
        self._num_preemptions = status.preemptions
        if progress.num_step_tokens:
            series.step_tokens.observe(progress.num_step_tokens)

    def loaded(self, loaded: Loaded, config: EngineConfig) -> None:
        series = self._series
        for stage, seconds in loaded.seconds.items():
            series.start_seconds.labels(**series.own, stage=stage).set(seconds)
        series.cache_info.labels(
            **series.model,
            block_size=config.block_size,
            num_gpu_blocks=loaded.num_blocks,
            cache_dtype=config.kv_cache_dtype,
        ).set(1)
        series.kernel_info.labels(
            **series.own,
            **loaded.paths,
            path=loaded.kernel_path,
            graphs=str(config.device == "cuda" and config.uses_graphs).lower(),
        ).set(1)

    def token(self, timing: Timing, now: float) -> None:
        """A sequence got its next token."""
        series = self._series
        series.generation_tokens.inc()
        if timing.last_token is None:
            timing.first_token = now
            series.first_token_seconds.observe(now - timing.arrived)
        else:
            series.token_seconds.observe(now - timing.last_token)
        timing.last_token = now

    def finished(self, timing: Timing, reason: str, num_prompt: int, num_outputs: int) -> None:
        """A sequence ended; `reason` is its finish reason, or "abort"."""
        series = self._series
        series.successes.labels(**series.model, finished_reason=reason).inc()
        series.prompt_length.observe(num_prompt)
        series.output_length.observe(num_outputs)
        if timing.first_token is None or timing.last_token is None:
            return
        series.request_seconds.observe(timing.last_token - timing.arrived)
        series.queue_seconds.observe(timing.queue_seconds)
        series.inference_seconds.observe(timing.last_token - timing.arrived - timing.queue_seconds)
        series.prefill_seconds.observe(timing.first_token - timing.arrived)
        series.decode_seconds.observe(timing.last_token - timing.first_token)
        if num_outputs > 1:
            decode = timing.last_token - timing.first_token
            series.time_per_token.observe(decode / (num_outputs - 1))

    def prompt(self, num_tokens: int, num_cached: int) -> None:
        """A prompt was computed, `num_cached` of its tokens by the prefix cache."""
        series = self._series
        series.prompt_tokens.inc(num_tokens)
        series.prefix_queries.inc(num_tokens)
        series.prefix_hits.inc(num_cached)
        series.prompt_tokens_cached.inc(num_cached)
        series.prefill_length.observe(num_tokens - num_cached)

    def asked(self, num_choices: int, max_tokens: int) -> None:
        """A request was admitted."""
        series = self._series
        series.params_n.observe(num_choices)
        series.params_max_tokens.observe(max_tokens)

    def answered(self, longest: int) -> None:
        """A request ended; its longest answer has so many tokens."""
        self._series.longest_output.observe(longest)
