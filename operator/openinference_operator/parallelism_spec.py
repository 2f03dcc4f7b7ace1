"""`spec.parallelism` as typed data: how many ranks a replica has, and along which axes."""

from dataclasses import dataclass

from openinference_operator.errors import SpecError
from openinference_operator.fields import Fields, default

GPU_RESOURCE = "nvidia.com/gpu"
SIZES = ("pipeline", "tensor", "expert")


@dataclass(frozen=True, slots=True)
class Parallelism:
    """The sizes that the user gave; with `is_automatic` the operator chooses them, pods too."""

    is_automatic: bool = False
    pipeline: int = 1
    tensor: int = 1
    expert: int = 1

    @property
    def num_ranks(self) -> int:
        """Ranks of one replica."""
        return self.pipeline * self.tensor * self.expert


def parse_parallelism(fields: Fields, gpus_per_pod: int) -> Parallelism | None:
    """Read the section; None where it is not there. Raises SpecError where pods are not full."""
    sizes = {name: fields.integer(name, minimum=1) for name in SIZES}
    is_automatic = fields.flag("auto")
    if is_automatic and any(sizes.values()):
        raise SpecError(fields.at("auto"), "chooses all sizes; remove it, or the sizes beside it")
    if not is_automatic and not any(sizes.values()):
        return None
    parallelism = Parallelism(
        is_automatic, **{name: default(size, 1) for name, size in sizes.items()}
    )
    if gpus_per_pod and not is_automatic and parallelism.num_ranks % gpus_per_pod:
        raise SpecError(
            fields.path,
            f"pipeline x tensor x expert is {parallelism.num_ranks} ranks, which do not fill pods"
            f" of {gpus_per_pod} GPUs; use a multiple, or change resources.limits {GPU_RESOURCE}",
        )
    of_stage = parallelism.tensor * parallelism.expert
    if gpus_per_pod and not is_automatic and gpus_per_pod % of_stage:
        raise SpecError(
            fields.path,
            f"tensor x expert is {of_stage} GPUs that share a stage, which they do within one pod,"
            f" and a pod has {gpus_per_pod}; use resources.limits {GPU_RESOURCE}: {of_stage} or a"
            " multiple, or more stages of fewer GPUs each, which may be in several pods",
        )
    return parallelism
