"""GPUs that a node only says it has: the scheduler counts them, and no program can use them."""

import json

from e2e.kube import Kube

GPU = "nvidia.com/gpu"


async def give_gpus(kube: Kube, node: str, count: str | None) -> None:
    """node: as "node/<name>". count: None takes them away."""
    amounts = json.dumps({"status": {"capacity": {GPU: count}, "allocatable": {GPU: count}}})
    await kube.run("patch", node, "--subresource=status", "--type=merge", f"--patch={amounts}")
