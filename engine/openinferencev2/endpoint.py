"""Where requests go: a URL that was given, or a Service of the cluster through a port-forward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Kubectl

ROUTER = "openinference-router"

Url = Annotated[
    str | None,
    typer.Option(help="Router or engine to ask. Default: the cluster's, through kubectl."),
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL without /v1, and what to send along."""

    url: str
    headers: dict[str, str]


@contextlib.contextmanager
def reach(
    service: str | None, url: str | None, namespace: str | None, context: str | None
) -> Iterator[Endpoint]:
    """The endpoint of a service, or of all of the namespace, while the block is open."""
    from openinferencev2.settings import load

    settings = load(url=url, namespace=namespace, context=context)
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    if settings.url:
        yield Endpoint(_base(settings.url), headers)
        return
    with Kubectl(settings.context, settings.namespace).forwarded(service or ROUTER) as forwarded:
        yield Endpoint(forwarded, headers)


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--url {url} has no scheme", f"write http://{url}", Exit.USAGE)
    return url.rstrip("/").removesuffix("/v1")
