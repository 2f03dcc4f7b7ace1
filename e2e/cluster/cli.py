"""The command line of the local cluster: `python -m e2e.cluster <command>`.

It owns the words, the choice of a provider and the exit codes: 0 done, 1 failed, 2 this machine
cannot do it. What the commands do is the provider's.
"""

import shlex
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from e2e.cluster import kubectl, locking, packages, places, preflight
from e2e.cluster.addresses import MAX_NODES
from e2e.cluster.embedded import EmbeddedProvider
from e2e.cluster.errors import ClusterError, UnsupportedMachine
from e2e.cluster.kind import KindProvider
from e2e.cluster.progress import console
from e2e.cluster.provider import Provider, ProviderName

app = typer.Typer(
    help="A real Kubernetes on this machine, with or without Docker.",
    no_args_is_help=True,
    add_completion=False,
)

_PROVIDERS: dict[ProviderName, Callable[[], Provider]] = {
    ProviderName.EMBEDDED: EmbeddedProvider,
    ProviderName.KIND: KindProvider,
}


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=MAX_NODES, help="At least that many.")] = 1,
    provider: Annotated[ProviderName, typer.Option(help="Who makes it.")] = ProviderName.AUTO,
) -> None:
    """Start the cluster, or mend it; a moment if it is up."""
    with locking.exclusive(places.lock()):
        machine = preflight.observe()
        chosen = _chosen(provider, machine)
        preflight.check(chosen, machine)
        if chosen is ProviderName.EMBEDDED and machine.missing_packages:
            packages.install(machine.missing_packages)
        places.provider_record().write_text(chosen)
        _provider_of(chosen).up(nodes)


@app.command()
def down() -> None:
    """Remove the cluster and all that it made on this machine, except compiled programs."""
    with locking.exclusive(places.lock()):
        chosen = _recorded_provider()
        if chosen is None:
            console.print("No cluster is up.")
            return
        _provider_of(chosen).down()
        places.provider_record().unlink()


@app.command()
def status() -> None:
    """Show the parts of the cluster and its nodes; exit code 1 if something is dead."""
    parts = _current().parts()
    table = Table("part", "condition", box=None)
    for part in parts:
        colour = "green" if part.is_healthy else "red"
        table.add_row(part.name, f"[{colour}]{part.condition}[/]")
    Console().print(table)
    if not all(part.is_healthy for part in parts):
        raise ClusterError("Something is dead; `python -m e2e.cluster up` mends it.")
    typer.echo(kubectl.kubectl("get", "nodes", "--output=wide"))


@app.command()
def kubeconfig() -> None:
    """Print the path of the kubeconfig."""
    typer.echo(_current().kubeconfig())


@app.command()
def env() -> None:
    """Print shell commands that make kubectl and helm speak to the cluster."""
    _current()
    typer.echo(f"export KUBECONFIG={shlex.quote(str(places.kubeconfig()))}")
    typer.echo(f'export PATH={shlex.quote(str(places.tools()))}:"$PATH"')
    typer.echo(f"export NO_PROXY={shlex.quote(kubectl.environment()['NO_PROXY'])}")


@app.command()
def load(
    tag: Annotated[list[str] | None, typer.Option(help="An image tag; may be repeated.")] = None,
) -> None:
    """Make the current code available to pods, also under other image tags."""
    with locking.exclusive(places.lock()):
        _current().load(tag or ["dev"])


@app.command()
def add_node() -> None:
    """Add one node and print its name."""
    with locking.exclusive(places.lock()):
        typer.echo(_current().add_node())


def main() -> None:
    """Run the command line; failures are one sentence, not a traceback."""
    try:
        app()
    except ClusterError as error:
        console.print(f"[red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2 if isinstance(error, UnsupportedMachine) else 1)


def _chosen(wished: ProviderName, machine: preflight.Machine) -> ProviderName:
    """The provider of the cluster that is up, else the one that suits wish and machine."""
    recorded = _recorded_provider()
    if recorded is None:
        return preflight.choose(wished, machine)
    if wished not in (ProviderName.AUTO, recorded):
        raise ClusterError(f"A cluster of {recorded} is up; run `down`, then `up` with {wished}.")
    return recorded


def _provider_of(name: ProviderName) -> Provider:
    return _PROVIDERS[name]()


def _recorded_provider() -> ProviderName | None:
    record = places.provider_record()
    return ProviderName(record.read_text()) if record.exists() else None


def _current() -> Provider:
    recorded = _recorded_provider()
    if recorded is None:
        raise ClusterError("No cluster is up; start one with `python -m e2e.cluster up`.")
    return _provider_of(recorded)
