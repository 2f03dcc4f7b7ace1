"""`openinference doctor`: look at cluster, permissions, operator, routers, GPUs and services."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from rich.table import Table
from rich.text import Text

from openinferencev2.checks import Facts, Finding, examine
from openinferencev2.errors import CommandError
from openinferencev2.kubectl import Context, Kubectl, Namespace, connect
from openinferencev2.output import Format, Output, out, print_json, toned

OPERATOR = "--selector=app.kubernetes.io/part-of=openinference,app.kubernetes.io/component=operator"
PERMISSIONS = {
    "create InferenceServices": ("create", "inferenceservices.openinference.dev"),
    "change InferenceServices": ("patch", "inferenceservices.openinference.dev"),
    "read pods": ("get", "pods"),
    "read logs": ("get", "pods/log"),
    "forward ports": ("create", "pods/portforward"),
}
MARKS = {"good": "well", "busy": "look", "bad": "mend"}

T = TypeVar("T")


def doctor(
    namespace: Namespace = None, context: Context = None, output: Output = Format.TEXT
) -> None:
    """Find what keeps models from being served, and say how to mend it."""
    findings = examine(gather(connect(namespace, context)))
    if output is Format.JSON:
        print_json([asdict(finding) for finding in findings])
    else:
        out.print(table(findings))
    if num_bad := sum(finding.level == "bad" for finding in findings):
        raise CommandError(f"{num_bad} thing{'s' if num_bad > 1 else ''} to mend")


def gather(kubectl: Kubectl) -> Facts:
    """Read what there is. Raises CommandError only where the cluster does not answer at all."""
    version = json.loads(kubectl.run("get", "--raw=/version"))["gitVersion"]
    unread: dict[str, str] = {}

    def attempt(name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except CommandError as error:
            unread[name] = error.message
            return None

    return Facts(
        server_version=version,
        crd=attempt("crd", lambda: kubectl.get("crd", "inferenceservices.openinference.dev")),
        permissions={name: _may(kubectl, *what) for name, what in PERMISSIONS.items()},
        operators=attempt(
            "operators",
            lambda: kubectl.get("deployments", "--all-namespaces", OPERATOR)["items"],
        ),
        router=attempt("router", lambda: kubectl.get("deployment", "openinference-router")),
        services=attempt("services", lambda: kubectl.get("infsvc")["items"]),
        nodes=attempt("nodes", lambda: kubectl.get("nodes")["items"]),
        driver=_driver(),
        unread=unread,
    )


def table(findings: list[Finding]) -> Table:
    lines = Table.grid(padding=(0, 2))
    for finding in findings:
        words = Text(finding.message)
        if finding.remedy:
            words.append(f"\n→ {finding.remedy}", style="yellow")
        lines.add_row(toned(finding.level, MARKS[finding.level]), finding.subject, words)
    return lines


def _may(kubectl: Kubectl, verb: str, resource: str) -> bool:
    try:
        return kubectl.run("auth", "can-i", verb, resource).strip() == "yes"
    except CommandError:  # it also fails where the answer is no
        return False


def _driver() -> str:
    """Devices and driver of this machine, where it has any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    asked = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True)  # noqa: S603  no shell, no input
    return "; ".join(found.stdout.strip().splitlines()) if found.returncode == 0 else ""
