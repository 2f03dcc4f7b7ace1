"""The cluster through kubectl: its contexts, its logins and its port-forwards are the user's own.

A Python client would have to learn every cloud's login anew; kubectl is there wherever somebody
deploys. What it complains of is put into one sentence with a remedy.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Annotated, Any

import typer

from openinferencev2.errors import CommandError, Exit

Json = dict[str, Any]

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Default: that of the context.")
]
Context = Annotated[str | None, typer.Option(help="kubeconfig context. Default: the current one.")]

TIMEOUT = "--request-timeout=15s"

# What kubectl says (a pattern) → what it means, and what to do.
_TROUBLES = (
    (
        r"forbidden|Unauthorized|provide credentials",
        "the cluster refuses: {words}",
        "ask its administrator for the role 'edit', or take another --context",
    ),
    (
        r"doesn't have a resource type \"?infsvc|no matches for kind \"InferenceService"
        r"|could not find the requested resource",  # kubectl remembers an API that is gone
        "the cluster does not know InferenceServices",
        "install the chart: helm install openinference charts/openinference "
        "--namespace openinference-system --create-namespace",
    ),
    (
        r"context \S+ does not exist|context was not found",
        "{words}",
        "`kubectl config get-contexts` lists those there are",
    ),
    (
        r"no configuration has been provided|connection to the server localhost:8080",
        "there is no cluster: kubectl has no kubeconfig",
        "set KUBECONFIG, or start a local cluster with `make cluster-up`",
    ),
    (
        r"refused|Unable to connect|no such host|timeout|timed out|unreachable|EOF|x509",
        "the cluster does not answer: {words}",
        "check that it runs and that --context and KUBECONFIG name it",
    ),
)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl in one context and namespace; empty is kubectl's own choice."""

    context: str = ""
    namespace: str = ""

    def run(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl printed. Raises CommandError with a remedy when it fails."""
        try:
            done = subprocess.run(  # noqa: S603  arguments are a list; no shell
                self._command(*arguments, TIMEOUT), input=stdin, capture_output=True, text=True
            )
        except FileNotFoundError as error:
            raise _missing() from error
        if done.returncode:
            raise explain(done.stderr)
        return done.stdout

    def get(self, *arguments: str) -> Json:
        found: Json = json.loads(self.run("get", *arguments, "--output=json"))
        return found

    def lines(self, *arguments: str) -> Iterator[str]:
        """What kubectl prints, line by line, for as long as it likes.

        Raises CommandError with a remedy when it fails in the end.
        """
        with (
            tempfile.TemporaryFile("w+") as complaints,
            self._started(*arguments, stderr=complaints) as process,
            process.stdout or io.StringIO() as said,
        ):
            for line in said:
                yield line.rstrip("\n")
            if process.wait():
                complaints.seek(0)
                raise explain(complaints.read())

    @contextlib.contextmanager
    def forwarded(self, service: str, local_port: int = 0) -> Iterator[str]:
        """A base URL that leads to port `http` of a Service, while the block is open."""
        ports = f"{local_port or ''}:http"
        arguments = ("port-forward", f"service/{service}", ports)
        with self._started(*arguments, stderr=subprocess.STDOUT) as process:
            said = process.stdout or io.StringIO()
            line = said.readline()
            if not line.startswith("Forwarding from "):
                raise explain(line + said.read())
            threading.Thread(target=_drain, args=(said,), daemon=True).start()
            yield f"http://{line.split()[2]}"  # "Forwarding from 127.0.0.1:43210 -> 8080"

    @contextlib.contextmanager
    def _started(self, *arguments: str, stderr: int | IO[str]) -> Iterator[subprocess.Popen[str]]:
        """kubectl beside us, ended when the block is left."""
        try:
            process = subprocess.Popen(  # noqa: S603  arguments are a list; no shell
                self._command(*arguments), stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        except FileNotFoundError as error:
            raise _missing() from error
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def _command(self, *arguments: str) -> list[str]:
        own = [f"--context={self.context}"] if self.context else []
        own += [f"--namespace={self.namespace}"] if self.namespace else []
        return ["kubectl", *own, *arguments]


def connect(namespace: str | None, context: str | None) -> Kubectl:
    """kubectl as flags, environment and file say."""
    from openinferencev2.settings import load

    settings = load(namespace=namespace, context=context)
    return Kubectl(settings.context, settings.namespace)


def service_names(context: typer.Context, incomplete: str) -> list[str]:
    """What a shell offers for the name of a service; nothing where no cluster answers."""
    try:
        kubectl = connect(context.params.get("namespace"), context.params.get("context"))
        lines = kubectl.run("get", "infsvc", "--output=name").splitlines()
    except CommandError:
        return []
    names = (line.partition("/")[2] for line in lines)
    return [name for name in names if name.startswith(incomplete)]


def explain(complaint: str) -> CommandError:
    """What kubectl complained of, in one sentence with a remedy."""
    words = re.sub(r"^(error|Error from server( \(\w+\))?): ", "", complaint.strip())
    words = words.splitlines()[-1] if words else "kubectl failed without a word"
    for pattern, meaning, remedy in _TROUBLES:
        if re.search(pattern, complaint, re.IGNORECASE):
            return CommandError(meaning.format(words=words), remedy, Exit.CLUSTER)
    if "NotFound" in complaint or "not found" in complaint:
        return CommandError(words, "`openinference status` lists what there is", Exit.USAGE)
    return CommandError(words)


def _drain(said: IO[str]) -> None:
    """Take what nobody reads: kubectl says a line for each connection, and a full pipe stops it."""
    with said:
        deque(said, maxlen=0)


def _missing() -> CommandError:
    return CommandError(
        "kubectl is not on PATH",
        "install it as https://kubernetes.io/docs/tasks/tools says",
        Exit.CLUSTER,
    )
