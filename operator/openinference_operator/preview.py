"""What an InferenceService would become, printed without a cluster: memory, steps, objects.

Objects are YAML documents that `kubectl apply` reads; everything else is a comment above them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any, TextIO

import yaml

from openinference_operator.auto_layout import Choice
from openinference_operator.errors import SpecError
from openinference_operator.observe import Observed
from openinference_operator.operations import Apply, Create, Operation
from openinference_operator.parallelism_spec import Parallelism
from openinference_operator.plan import plan_namespace, plan_service
from openinference_operator.preparation import ModelStage, Preparation, Result
from openinference_operator.rollout import GroupState, Phase, Step, bounds, next_step
from openinference_operator.routers import RouterView
from openinference_operator.settings import Settings
from openinference_operator.sizing import Sizing, human
from openinference_operator.spec import InferenceService, parse
from openinference_operator.status import recorded_desired

NOTHING_OBSERVED = Observed(
    groups=(), revisions={}, routers=RouterView("", (), {}), live={}, status={}, name_taken_by=""
)


def preview(path: Path, settings: Settings, out: TextIO) -> int:
    """Print what a file would become; return the exit status."""
    try:
        service = parse(yaml.safe_load(path.read_text()))
    except SpecError as error:
        out.write(f"{path}: {error}\n")
        return 1
    found = foresee(service, settings)
    write(found, out)
    return 0 if found.fits else 1


@dataclass(frozen=True, slots=True)
class Preview:
    """`sizing` is None while the model was not looked at; `objects` are what would be applied."""

    service: InferenceService
    choice: Choice
    sizing: Sizing | None
    objects: Sequence[dict[str, Any]]

    @property
    def fits(self) -> bool:
        """Whether a replica can run, as far as is known."""
        return self.sizing is None or not self.sizing.problem

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "fits": self.fits,
            "parallelism": self.choice.layout.as_json() | {"reason": self.choice.reason},
            "memory": _sizes(self.sizing) if self.sizing else None,
            "rollout": [
                _counts(step) | {"exist": existing, "takeRequests": routable}
                for step, existing, routable in rollout_steps(self.service)
            ],
            "objects": self.objects,
        }


def foresee(
    service: InferenceService,
    settings: Settings,
    result: Result | None = None,
    gpu_memories: tuple[int, ...] = (),
) -> Preview:
    """What a service would become on an empty cluster.

    `result`: what the model is, None while that is unknown. `gpu_memories`: bytes of one GPU.
    """
    # As after the download: before it the plan is a Job alone.
    needs_work = service.model.is_remote or service.model.volume_claim
    stage = ModelStage.READY if needs_work else ModelStage.IN_PLACE
    preparation = Preparation(stage, result=result)
    observed = replace(NOTHING_OBSERVED, preparation=preparation, gpu_memories=gpu_memories)
    choice, sizing = observed.layout(service), observed.sizing(service)
    # A model that cannot fit makes no replica; tell what it would make if it did.
    known = result and replace(result, summary=None)
    observed = replace(observed, preparation=replace(preparation, result=known))
    sizes = choice.layout
    chosen = Parallelism(False, sizes.pipeline, sizes.tensor, sizes.expert)
    service = replace(service, parallelism=chosen)
    desired = recorded_desired(service, {})
    defaults, is_isolated = settings.engine, settings.network.is_enabled
    plan = plan_service(service, observed, desired, defaults, time(), is_isolated=is_isolated)
    shared = plan_namespace([service], {}, settings.router, settings.network)
    return Preview(service, choice, sizing, [*map(_manifest, [*plan.operations, *shared])])


def write(found: Preview, out: TextIO) -> None:
    """Memory and steps as comments, then the objects as YAML documents."""
    replica = f"Each replica has {found.choice}."
    for line in (replica, *_memory(found.sizing), *_steps(found.service)):
        out.write(f"# {line}\n")
    yaml.dump_all(found.objects, out, _PlainDumper, sort_keys=False)


def rollout_steps(service: InferenceService) -> Iterator[tuple[Step, int, int]]:
    """Each step of an upgrade when all goes well, with the groups that exist and are routable.

    All replicas of an old revision serve at first; what a step asks for has happened by the next.
    """
    replicas = max(1, recorded_desired(service, {}))
    limits = bounds(service.rollout, replicas)
    groups = [GroupState(f"old-{number}", "old", Phase.ROUTABLE) for number in range(replicas)]
    made = 0
    while True:
        step = next_step(groups, "new", limits, routers_settled=True, stable="old")
        if step == Step(0, (), ()):
            return
        routable = sum(group.phase is Phase.ROUTABLE for group in groups)
        yield step, len(groups) + step.create, routable - len(step.drain)
        groups = [_after(group, step) for group in groups if group.name not in step.delete]
        groups += [
            GroupState(f"new-{made + number}", "new", Phase.ROUTABLE)
            for number in range(step.create)
        ]
        made += step.create


def _after(group: GroupState, step: Step) -> GroupState:
    return replace(group, phase=Phase.DRAINED) if group.name in step.drain else group


def _sizes(sizing: Sizing) -> dict[str, Any]:
    return {
        "pods": sizing.pods,
        "gpusPerPod": sizing.gpus_per_pod,
        "gpus": sizing.gpus,
        "weightBytesPerGpu": sizing.weights_per_gpu,
        "kvBytesPerGpu": sizing.kv_per_gpu,
        "sequences": sizing.max_concurrency,
        "problem": sizing.problem,
    }


def _memory(sizing: Sizing | None) -> Iterator[str]:
    if sizing is None:
        yield "Memory: unknown, the model was not looked at."
        return
    if sizing.is_misfit:
        yield f"It does not fit: {sizing.problem}."
        return
    yield f"Memory: {human(sizing.weights_per_gpu)} of weights in {_fullest(sizing)}."
    if sizing.problem:
        yield f"It does not fit: {sizing.problem}."
    elif sizing.kv_per_gpu is not None:
        yield (
            f"{human(sizing.kv_per_gpu)} are left there for keys and values:"
            f" {sizing.max_concurrency} sequences of full length at once."
        )
    else:
        missing = "--gpu-memory" if sizing.gpus else "resources.limits.memory"
        yield f"What is left for keys and values is unknown without {missing}."


def _fullest(sizing: Sizing) -> str:
    if sizing.gpus > 1:
        return f"the fullest of {sizing.gpus} GPUs, {sizing.gpus_per_pod} in a pod"
    if sizing.gpus:
        return "the GPU"
    pods = sizing.pods
    return f"the memory of the fullest of {pods} pods" if pods > 1 else "the memory of the pod"


def _steps(service: InferenceService) -> Iterator[str]:
    model = service.model
    if model.volume_claim:
        verb = "fetches" if model.is_remote else "looks at"
        yield f"First a Job {verb} {model.uri} in claim {model.volume_claim}."
    replicas = recorded_desired(service, {})
    yield f"Then all {replicas} replicas start. A later revision would replace them like this:"
    for number, (step, existing, routable) in enumerate(rollout_steps(service), start=1):
        told = ", ".join(f"{verb} {count}" for verb, count in _counts(step).items() if count)
        yield f"  {number}. {told}: {existing} exist, {routable} of them take requests"


def _counts(step: Step) -> dict[str, int]:
    return {"create": step.create, "drain": len(step.drain), "delete": len(step.delete)}


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors, as people write it."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write the same value out each time."""
        return True


def _manifest(operation: Operation) -> dict[str, Any]:
    assert isinstance(operation, (Apply, Create)), "nothing exists yet, so all is created"  # noqa: S101
    return operation.manifest
