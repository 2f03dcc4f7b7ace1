"""Runs Helm on the chart as a user would; nothing here needs a cluster.

Helm is taken from PATH or from where the local cluster keeps it (`make cluster-up`); without it the
tests that need it are skipped, the others run.
"""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import places

Object = dict[str, Any]
Render = Callable[[dict[str, Any]], list[Object]]

KUBERNETES_VERSION = "1.34.0"
"""What the templates see as the cluster; a Helm that is not an official build assumes 1.20."""


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def chart(repository: Path) -> Path:
    return repository / "charts" / "openinference"


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `helm <arguments>` with the values given on its standard input as JSON."""
    binary = shutil.which("helm", path=f"{os.environ.get('PATH', '')}:{places.tools()}")
    if binary is None:
        pytest.skip(f"no helm on PATH or in {places.tools()}; `make cluster-up` builds it")

    def run(*arguments: str | Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binary, *arguments, "--kube-version", KUBERNETES_VERSION, "--values", "-"],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]], chart: Path) -> Render:
    """Renders the chart with some values, as `helm install` in openinference-system would.

    The same values are rendered once: treat the objects as read-only.
    """

    @functools.cache
    def objects(values_json: str) -> list[Object]:
        result = helm(
            *("template", "openinference", chart, "-n", "openinference-system"),
            values=json.loads(values_json),
        )
        assert result.returncode == 0, result.stderr
        return [item for item in yaml.safe_load_all(result.stdout) if item]

    return lambda values: objects(json.dumps(values))
