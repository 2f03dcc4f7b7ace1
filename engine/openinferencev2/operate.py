"""`openinference scale` and `rollback`: everyday work on a service that runs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from openinferencev2.deploy import wait_ready
from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Context, Json, Kubectl, Namespace, connect, service_names
from openinferencev2.output import Format, Output, out, print_json

REVISED = ("model", "engine", "resources", "podTemplate")
"""Fields of a spec that are inside the revision; what else is set stays at a rollback."""

RESTARTED_AT = "openinference.dev/restartedAt"
FAILURE = "openinference.dev/failure"

Name = Annotated[str, typer.Argument(help="Name of the service.", autocompletion=service_names)]
Wait = Annotated[bool, typer.Option(help="Return once the change is in force.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]


def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(min=0, help="How many.")],
    namespace: Namespace = None,
    context: Context = None,
    wait: Wait = True,
    timeout_seconds: Timeout = 600,
    output: Output = Format.TEXT,
) -> None:
    """Set the number of replicas."""
    kubectl = connect(namespace, context)
    if "autoscaling" in kubectl.get("infsvc", name)["spec"]:
        raise CommandError(
            f"{name} is scaled by its queue",
            "change spec.autoscaling.minReplicas or maxReplicas, or remove spec.autoscaling",
            Exit.USAGE,
        )
    kubectl.run("scale", "infsvc", name, f"--replicas={replicas}")
    done = f"{replicas} replica{'' if replicas == 1 else 's'}"
    _finish(kubectl, name, done, timeout_seconds if wait else None, output)


def rollback(
    name: Name,
    to: Annotated[str, typer.Option(help="Revision. Default: the last good one before.")] = "",
    show: Annotated[
        bool, typer.Option("--list", help="List revisions and change nothing.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    wait: Wait = True,
    timeout_seconds: Timeout = 600,
    output: Output = Format.TEXT,
) -> None:
    """Go back to an earlier revision, under traffic, as any other rollout."""
    kubectl = connect(namespace, context)
    service, revisions = kubectl.get("infsvc", name), _revisions(kubectl, name)
    if show:
        return _list(service, revisions, output)
    target = choose(service, revisions, to)
    patch = [*restore(service, target["data"]["fields"])]
    kubectl.run("patch", "infsvc", name, "--type=json", f"--patch={json.dumps(patch)}")
    done = f"back at revision {_id(target)}"
    _finish(kubectl, name, done, timeout_seconds if wait else None, output)
    return None


def _finish(
    kubectl: Kubectl, name: str, done: str, timeout_seconds: float | None, output: Format
) -> None:
    """Wait, unless the time is None, and tell what was done, or the object to scripts."""
    if timeout_seconds is not None:
        service = wait_ready(kubectl, name, timeout_seconds)
    else:
        service = kubectl.get("infsvc", name)
    if output is Format.JSON:
        print_json(service)
    else:
        out.print(f"{name}: {done}")


def choose(service: Json, revisions: list[Json], wished: str) -> Json:
    """The revision to go back to. Raises CommandError when there is none."""
    wanted = service.get("status", {}).get("updateRevision", "")
    others = [each for each in revisions if _id(each) != wanted]
    if wished:
        others = [each for each in revisions if _id(each) == wished]
    else:
        others = [each for each in others if FAILURE not in _annotations(each)]
    if not others:
        known = ", ".join(map(_id, revisions)) or "none"
        what = f"revision {wished}" if wished else "good revision before this one"
        raise CommandError(f"there is no {what}", f"those kept: {known}", Exit.USAGE)
    return max(others, key=lambda each: int(each["revision"]))


def restore(service: Json, fields: Json) -> list[Json]:
    """JSON patch that makes the fields inside the revision what they were, and no other."""
    spec, annotations = service["spec"], service["metadata"].get("annotations", {})
    patch = []
    for field in REVISED:
        patch += _set(f"/spec/{field}", spec.get(field), fields.get(field))
    if annotations or "restartedAt" in fields:
        place = "/metadata/annotations/" + RESTARTED_AT.replace("/", "~1")
        patch += [] if annotations else [_operation("add", "/metadata/annotations", {})]
        patch += _set(place, annotations.get(RESTARTED_AT), fields.get("restartedAt"))
    return patch


def _set(path: str, before: Any, after: Any) -> list[Json]:
    if before == after:
        return []
    return [_operation("remove", path)] if after is None else [_operation("add", path, after)]


def _operation(kind: str, path: str, value: Any = None) -> Json:
    return {"op": kind, "path": path} | ({} if kind == "remove" else {"value": value})


def _revisions(kubectl: Kubectl, name: str) -> list[Json]:
    selector = f"--selector=openinference.dev/service={name}"
    return kept(kubectl.get("controllerrevisions", selector)["items"])


def kept(found: list[Json]) -> list[Json]:
    """The operator's revisions, oldest first; StatefulSets keep others under the same labels."""
    ours = [each for each in found if "fields" in each["data"]]
    return sorted(ours, key=lambda each: int(each["revision"]))


def _list(service: Json, revisions: list[Json], output: Format) -> None:
    wanted = service.get("status", {}).get("updateRevision", "")
    if output is Format.JSON:
        return print_json([_summary(each, wanted) for each in revisions])
    lines = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("REVISION", "CREATED", "MODEL", "STATE"):
        lines.add_column(column)
    for each in reversed(revisions):
        lines.add_row(*map(str, _summary(each, wanted).values()))
    out.print(lines)
    return None


def _summary(revision: Json, wanted: str) -> Json:
    failure = _annotations(revision).get(FAILURE)
    state = "wanted" if _id(revision) == wanted else "kept"
    return {
        "revision": _id(revision),
        "created": revision["metadata"]["creationTimestamp"],
        "model": revision["data"]["fields"].get("model", {}).get("uri", ""),
        "state": f"failed: {failure}" if failure else state,
    }


def _id(revision: Json) -> str:
    return str(revision["metadata"]["labels"]["openinference.dev/revision"])


def _annotations(revision: Json) -> Json:
    found: Json = revision["metadata"].get("annotations", {})
    return found
