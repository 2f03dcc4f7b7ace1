"""What the demo draws of a service's state. Pure: a state in, something that rich can print out."""

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from e2e.asks import Json
from e2e.report import Report

_BARS = " ▁▂▃▄▅▆▇█"
_GOOD = "[green]✓"
_NOT_YET = "[yellow]…"
_CHART_WIDTH = 40


def conditions_view(service: Json) -> Table:
    """What the service says about itself, one line for each condition."""
    table = _table()
    for each in service.get("status", {}).get("conditions", []):
        mark = _GOOD if _is_good(each) else _NOT_YET
        table.add_row(mark, each["type"], f"[dim]{each['reason']}", escape(each["message"]))
    return table


def scaling_view(service: Json, waiting: Sequence[float]) -> Table:
    """The queue as Prometheus measures it, and what the operator makes of it."""
    status = service.get("status", {})
    scaling = status.get("scaling", {})
    newest = f"{waiting[-1]:.0f}" if waiting else "?"
    sources = ", ".join(each.get("source", "?") for each in scaling.get("inputs", []))
    table = _table()
    table.add_row("waiting", f"[magenta]{sparkline(waiting)}[/] [bold]{newest}")
    table.add_row("replicas", f"[bold]{status.get('replicasSummary', '?')}[/] routable/desired")
    table.add_row("decision", f"{scaling.get('reason', '?')}: {escape(scaling.get('message', ''))}")
    table.add_row("source", sources)
    return table


def rollout_view(service: Json, so_far: Report) -> Group:
    """How far the new revision is, and what has become of the requests so far."""
    status = service.get("status", {})
    table = _table()
    table.add_row("revision", f"{status.get('currentRevision')} → {status.get('updateRevision')}")
    table.add_row(
        "replicas",
        f"{status.get('replicas', 0)} exist, {status.get('updatedReplicas', 0)} of the new "
        f"revision, {status.get('routableReplicas', 0)} routable",
    )
    table.add_row("requests", so_far.counts())
    return Group(table, conditions_view(service))


def sparkline(values: Sequence[float]) -> str:
    """The newest values as bars, the highest of them as the full one."""
    shown = values[-_CHART_WIDTH:]
    highest = max(shown, default=0) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in shown)


def _is_good(condition: Json) -> bool:
    """ScalingLimited is the one that should not be true; its name is HorizontalPodAutoscaler's."""
    wanted = "False" if condition["type"] == "ScalingLimited" else "True"
    return bool(condition["status"] == wanted)


def _table() -> Table:
    return Table(box=None, show_header=False, padding=(0, 1))
