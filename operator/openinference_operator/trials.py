"""The evidence about revisions on trial: golden answers and measured figures, gathered when due.

What follows from it is decided by `course`, without clocks and networks. All that is held here may
be lost: groups are asked again, and figures measured again.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from openinference_operator.canary import Place, Verdict
from openinference_operator.course import NO_EVIDENCE, Evidence, unproved_groups
from openinference_operator.observe import Observed
from openinference_operator.revision import revision_of
from openinference_operator.rollout_spec import Canary
from openinference_operator.signals.analysis import analyse
from openinference_operator.signals.golden import GoldenChecks
from openinference_operator.signals.prometheus import Prometheus
from openinference_operator.spec import InferenceService

INTERVAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Measured:
    """A verdict, when it was made, and about which step."""

    verdict: Verdict
    at: float
    place: Place


class Trials:
    """Gathers evidence for one service at a time."""

    def __init__(self, prometheus: Prometheus, golden: GoldenChecks) -> None:
        self._prometheus = prometheus
        self._golden = golden
        self._measured: dict[Hashable, _Measured] = {}

    def forget(self, key: Hashable) -> None:
        """Drop what is remembered of a service that is gone, or has nothing on trial."""
        self._measured.pop(key, None)
        self._golden.forget(key)

    async def evidence(
        self,
        key: Hashable,
        service: InferenceService,
        observed: Observed,
        now: float,
        on_result: Callable[[], None],
    ) -> tuple[Evidence, float | None]:
        """The evidence now, and in how many seconds to look again (None: when something changes).

        `on_result` is called when a group has answered its golden prompts.
        """
        canary, revision = service.rollout.canary, revision_of(service)
        kept = observed.revisions.get(revision)
        is_over = kept is not None and kept.failure
        if canary is None or observed.current_revision in ("", revision) or is_over:
            self.forget(key)
            return NO_EVIDENCE, None
        unproved = unproved_groups(service, observed, revision)
        ready = {
            group.name: group.pod.uid
            for group in observed.groups
            if group.name in unproved and group.pod is not None and group.is_ready
        }
        golden = self._golden.results(key, service, canary.golden, ready, on_result)
        place = Place.from_text(kept.canary if kept else "")
        if place.reached_at is None:
            return Evidence(golden), None
        verdict = await self._verdict(key, service, canary, observed.current_revision, place, now)
        return Evidence(golden, verdict), INTERVAL_SECONDS

    async def _verdict(
        self,
        key: Hashable,
        service: InferenceService,
        canary: Canary,
        old: str,
        place: Place,
        now: float,
    ) -> Verdict:
        """The verdict about a step that was reached; measured anew when the last is too old."""
        last = self._measured.get(key)
        if last is not None and last.place == place and now - last.at < INTERVAL_SECONDS:
            return last.verdict
        verdict = await analyse(
            self._prometheus,
            (service.namespace, service.name),
            (revision_of(service), old),
            canary.analysis,
            now - (place.reached_at or now),
        )
        self._measured[key] = _Measured(verdict, now, place)
        return verdict
