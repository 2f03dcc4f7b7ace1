"""The chart on a real cluster: its own test passes."""

import os
import subprocess

from e2e.cluster.kubectl import environment
from e2e.install import SYSTEM_NAMESPACE
from e2e.kube import Kube


def test_helm_test_passes(installation: Kube) -> None:
    words = ("helm", "test", "openinference", "--namespace", SYSTEM_NAMESPACE, "--logs")
    done = subprocess.run(
        [*words, "--timeout", "2m"], env=os.environ | environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
