"""Where requests go: a URL that was given, or a Service of the cluster through a port-forward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Kubectl, service_names

if TYPE_CHECKING:
    from openinferencev2.settings import Settings

ROUTER = "openinference-router"

Url = Annotated[
    str | None,
    typer.Option(help="Router or engine to ask. Default: the cluster's, through kubectl."),
]

Service = Annotated[
    str | None,
    typer.Argument(help="Service. Default: any by --model.", autocompletion=service_names),
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL without /v1, what to send along, and the model where it is known already."""

    url: str
    headers: dict[str, str]
    model: str = ""


@contextlib.contextmanager
def reach(
    service: str | None, url: str | None, namespace: str | None, context: str | None
) -> Iterator[Endpoint]:
    """The endpoint of a service, or of all of the namespace, while the block is open."""
    from openinferencev2.settings import load

    with opened(load(url=url, namespace=namespace, context=context), service) as endpoint:
        yield endpoint


@contextlib.contextmanager
def opened(settings: Settings, service: str | None) -> Iterator[Endpoint]:
    """What `reach` gives, by settings that were read already."""
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    if settings.url:
        yield Endpoint(_base(settings.url), headers)
        return
    kubectl = Kubectl(settings.context, settings.namespace)
    if service is None:
        with kubectl.forwarded(ROUTER) as forwarded:
            yield Endpoint(forwarded, headers)
        return
    # The routers' pods answer for all services of the namespace; the Host says which is meant.
    told = kubectl.get("infsvc", service).get("status", {})
    with kubectl.forwarded(service) as forwarded:
        yield Endpoint(forwarded, headers | {"Host": service}, told.get("modelName", ""))


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--url {url} has no scheme", f"write http://{url}", Exit.USAGE)
    return url.rstrip("/").removesuffix("/v1")
