"""`plan -f`: the objects that an InferenceService would get, printed without a cluster."""

from pathlib import Path
from time import time
from typing import Any, TextIO

import yaml

from openinference_operator.errors import SpecError
from openinference_operator.observe import Observed
from openinference_operator.operations import Apply, Create, Operation
from openinference_operator.plan import plan_router, plan_service
from openinference_operator.routers import RouterView
from openinference_operator.settings import Settings
from openinference_operator.spec import parse
from openinference_operator.status import recorded_desired

NOTHING_OBSERVED = Observed(
    groups=(), revisions={}, routers=RouterView("", (), {}), live={}, status={}, name_taken_by=""
)


def preview(path: Path, settings: Settings, out: TextIO) -> int:
    """Print the objects as YAML; return the exit status."""
    try:
        service = parse(yaml.safe_load(path.read_text()))
    except SpecError as error:
        out.write(f"{path}: {error}\n")
        return 1
    desired = recorded_desired(service, {})
    plan = plan_service(service, NOTHING_OBSERVED, desired, settings.engine_image, time())
    operations = [*plan.operations, *plan_router([service], {}, settings.router)]
    yaml.dump_all(map(_manifest, operations), out, _PlainDumper, sort_keys=False)
    return 0


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors, as people write it."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write the same value out each time."""
        return True


def _manifest(operation: Operation) -> dict[str, Any]:
    assert isinstance(operation, (Apply, Create)), "nothing exists yet, so all is created"  # noqa: S101
    return operation.manifest
