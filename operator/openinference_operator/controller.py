"""What is done about a key: parse → observe → plan → apply → status.

A key is an InferenceService, or the router of a namespace. All state is in the objects; what is
held in memory (the windows of the autoscaler, the streams of the routers) may be lost at any
time, and then only the next scale-down waits longer.
"""

import logging
from collections.abc import Mapping
from time import time
from typing import Any

from openinference_operator.autoscaler import Autoscaler
from openinference_operator.conditions import refused
from openinference_operator.course import Evidence
from openinference_operator.errors import (
    ApiError,
    NameConflict,
    OperatorError,
    SpecError,
)
from openinference_operator.events import Recorder
from openinference_operator.facts import Facts
from openinference_operator.lease import Lease
from openinference_operator.namespace_router import NamespaceRouter
from openinference_operator.notes import Note, notes_of
from openinference_operator.observe import Observed, observe
from openinference_operator.plan import Plan, plan_service
from openinference_operator.reasons import Reason
from openinference_operator.routers import observe_routers
from openinference_operator.scaling import Decision
from openinference_operator.settings import Settings
from openinference_operator.signals.router_state import RouterStates
from openinference_operator.signals.survey import Survey
from openinference_operator.spec import InferenceService, parse
from openinference_operator.status import (
    build_refusal,
    build_status,
    recorded_desired,
    within_bounds,
)
from openinference_operator.store import Object, Store
from openinference_operator.trials import Trials
from openinference_operator.triggers import Key, Triggers
from openinference_operator.workqueue import WorkQueue
from openinference_operator.writer import Writer

log = logging.getLogger(__name__)

MINIMAL_DELAY_SECONDS = 0.1
FAILURES_IN_SILENCE = 9  # with the pauses between them most of a minute
CONNECTING_SECONDS = 0.2  # how soon to look again while a router has not said anything yet


class Controller:
    """Reconciles keys; everything it needs is handed in."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        lease: Lease,
        writer: Writer,
        recorder: Recorder,
        states: RouterStates,
        router: NamespaceRouter,
        triggers: Triggers,
        autoscaler: Autoscaler,
        trials: Trials,
        survey: Survey,
        queue: WorkQueue[Key],
    ) -> None:
        self._settings = settings
        self._store = store
        self._lease = lease
        self._writer = writer
        self._recorder = recorder
        self._states = states
        self._router = router
        self._triggers = triggers
        self._autoscaler = autoscaler
        self._trials = trials
        self._survey = survey
        self._queue = queue
        self._term = 0

    async def reconcile(self, key: Key) -> None:
        """Bring a key one plan nearer to rest. Raises OperatorError where that failed."""
        self._begin_term()
        if not key.service:
            again_in_seconds = await self._router.reconcile(key.namespace)
            if again_in_seconds is not None:
                self._queue.add_after(key, again_in_seconds)
            return
        raw = self._store.service(key.namespace, key.service)
        if raw is None or "deletionTimestamp" in raw["metadata"]:
            self._autoscaler.forget(key)
            self._trials.forget(key)
            self._triggers.forget(key)
            return
        if self._triggers.routers_are_connecting(key.namespace):
            self._queue.add_after(key, CONNECTING_SECONDS)
            return
        try:
            await self._reconcile_service(key, raw, parse(raw))
        except SpecError as error:
            await self._refuse(raw, raw.get("status") or {}, Reason.INVALID_SPEC, str(error))

    def _begin_term(self) -> None:
        """Forget what another leader may have decided since; write nothing without the lease."""
        self._lease.check()
        if self._term != self._lease.term:
            self._term = self._lease.term
            self._autoscaler.forget_all()

    async def _reconcile_service(self, key: Key, raw: Object, service: InferenceService) -> None:
        now = time()
        routers = observe_routers(self._store, key.namespace, self._states.report)
        observed = observe(self._store, service, routers)
        observed = await self._ask(key, service, observed)
        recorded = recorded_desired(service, observed.status)
        decision = await self._scale(key, service, observed, recorded, now)
        desired = within_bounds(service, decision.desired) if decision else recorded
        evidence = await self._gather(key, service, observed, now)
        defaults = self._settings.engine
        plan = plan_service(
            service,
            observed,
            desired,
            defaults,
            now,
            evidence,
            is_isolated=self._settings.network.is_enabled,
        )
        status = build_status(Facts(service, observed, plan, decision, now, evidence))
        if desired != recorded:
            # The scaler's record comes before its consequences: a new leader goes on from it.
            await self._writer.write_status(raw, status)
        if await self._perform(key, raw, plan, status):
            self._queue.add(key)  # what is true then is said then
        else:
            await self._writer.write_status(raw, status)
        for note in notes_of(plan.operations, observed, recorded, decision):
            await self._recorder.record(raw, note)
        if plan.look_again_at is not None:
            self._queue.add_after(key, max(MINIMAL_DELAY_SECONDS, plan.look_again_at - now))

    async def _ask(self, key: Key, service: InferenceService, observed: Observed) -> Observed:
        """Add what no watch tells."""
        observed, again_in_seconds = await self._survey.add(service, observed)
        if again_in_seconds is not None:
            self._queue.add_after(key, again_in_seconds)
        return observed

    async def _scale(
        self,
        key: Key,
        service: InferenceService,
        observed: Observed,
        recorded: int,
        now: float,
    ) -> Decision | None:
        """The decision of the autoscaler that stands now; None when it has no say."""
        if service.autoscaling is None or service.suspend:
            self._autoscaler.forget(key)
            return None
        standing = await self._autoscaler.evaluate(
            key, service, service.autoscaling, observed, recorded, now
        )
        self._queue.add_after(key, standing.next_in_seconds)
        return standing.decision

    async def _gather(
        self, key: Key, service: InferenceService, observed: Observed, now: float
    ) -> Evidence:
        """The evidence about a revision on trial, if there is one."""
        evidence, again_in_seconds = await self._trials.evidence(
            key, service, observed, now, on_result=lambda: self._queue.add(key)
        )
        if again_in_seconds is not None:
            self._queue.add_after(key, again_in_seconds)
        return evidence

    async def _perform(self, key: Key, raw: Object, plan: Plan, status: Mapping[str, Any]) -> bool:
        """Perform a plan; what is refused, or fails for long, is said in the status as well."""
        try:
            return await self._writer.perform(plan.operations)
        except NameConflict as error:
            await self._refuse(raw, status, Reason.NAME_CONFLICT, str(error))
            raise
        except ApiError as error:
            if error.is_refusal or self._queue.failures(key) >= FAILURES_IN_SILENCE:
                await self._refuse(raw, status, Reason.WRITE_REFUSED, str(error))
            raise

    async def _refuse(
        self, raw: Object, known: Mapping[str, Any], reason: Reason, message: str
    ) -> None:
        """Say that the service cannot be brought to its spec, beside what else is known of it."""
        before = raw.get("status") or {}
        generation = raw["metadata"]["generation"]
        status = build_refusal(refused(reason, message), known, before, generation, time())
        await self._writer.write_status(raw, status)
        await self._recorder.record(raw, Note(reason, message, "Warning"))

    async def confess(self, key: Key, error: Exception) -> None:
        """Say in the status that the operator itself failed on this one object."""
        raw = self._store.service(key.namespace, key.service)
        if raw is None:
            return
        message = f"the operator failed and tries again: {type(error).__name__}: {error}"
        try:
            await self._refuse(raw, raw.get("status") or {}, Reason.INTERNAL_ERROR, message)
        except OperatorError as refusal:
            log.warning("status not written: key=%s error=%s", key, refusal)
