"""The router of a namespace, one for all InferenceServices in it."""

from collections.abc import Sequence

from openinference_operator.errors import ApiError, NameConflict, OperatorError, SpecError
from openinference_operator.events import Recorder
from openinference_operator.lease import Lease
from openinference_operator.notes import Note
from openinference_operator.observe import is_owned_by
from openinference_operator.plan import plan_monitoring, plan_namespace
from openinference_operator.reasons import Reason
from openinference_operator.settings import Settings
from openinference_operator.signals.monitors import Monitors
from openinference_operator.spec import InferenceService, parse
from openinference_operator.store import Object, Store
from openinference_operator.tokens import CHECK_SECONDS, Tokens
from openinference_operator.writer import Writer

ROUTER_KINDS = (
    "ServiceAccount",
    "RoleBinding",
    "Service",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "Deployment",
)
UNKNOWN_SPEC = {"model": {"uri": "file:///unknown"}}  # of the rest every field has a default


class NamespaceRouter:
    """Keeps the router's objects, its token and the monitors, owned by the services together."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        lease: Lease,
        writer: Writer,
        recorder: Recorder,
        tokens: Tokens,
        monitors: Monitors,
    ) -> None:
        self._settings = settings
        self._store = store
        self._lease = lease
        self._writer = writer
        self._recorder = recorder
        self._tokens = tokens
        self._monitors = monitors

    async def reconcile(self, namespace: str) -> float | None:
        """Bring the router up to date; return in how many seconds to look again.

        Raises NameConflict, ApiError or LeaseLost; every service of the namespace is told of what
        does not pass by itself.
        """
        raws = self._store.services(namespace)
        staying = [raw for raw in raws if "deletionTimestamp" not in raw["metadata"]]
        owners = [owner for raw in staying if (owner := self._owner(raw)) is not None]
        if not owners:
            return None
        try:
            await self._keep(namespace, owners)
        except NameConflict as error:
            await self._tell(raws, Reason.NAME_CONFLICT, error)
            raise
        except ApiError as error:
            if error.is_refusal:
                await self._tell(raws, Reason.WRITE_REFUSED, error)
            raise
        return CHECK_SECONDS

    def _owner(self, raw: Object) -> InferenceService | None:
        """A service whose spec has become impossible keeps its router, for what runs goes on."""
        try:
            return parse(raw)
        except SpecError:  # its own key says so in its status
            present = self._store.select("Deployment", raw["metadata"]["namespace"], "")
            has_router = any(is_owned_by(each, raw["metadata"]["uid"]) for each in present)
            return parse({**raw, "spec": UNKNOWN_SPEC}) if has_router else None

    async def _tell(self, raws: Sequence[Object], reason: Reason, error: OperatorError) -> None:
        for raw in raws:
            await self._recorder.record(raw, Note(reason, str(error), "Warning"))

    async def _keep(self, namespace: str, owners: Sequence[InferenceService]) -> None:
        self._lease.check()
        await self._tokens.ensure(owners)
        live = {
            (kind, obj["metadata"]["name"]): obj
            for kind in ROUTER_KINDS
            for obj in self._store.select(kind, namespace, "")
        }
        router, network = self._settings.router, self._settings.network
        await self._writer.perform(plan_namespace(owners, live, router, network))
        looked = await self._monitors.look(owners)
        if looked is not None:
            await self._writer.perform(plan_monitoring(owners, *looked))
            self._monitors.kept(owners)
