"""Tells Prometheus which pods to scrape: the sidecar that stands in for Kubernetes discovery.

Debian builds Prometheus without Kubernetes service discovery, so this watches pods and writes
the ones that ask to be scraped into a file for `file_sd_configs`, which Prometheus reads as
soon as it changes. The file is put into a ConfigMap and runs alone in its container, so it
needs nothing but the standard library and imports nothing of the project.
"""

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

Pod = Mapping[str, Any]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_ANNOTATION = "prometheus.io/"


def target_groups(pods: Iterable[Pod]) -> list[dict[str, Any]]:
    """The running pods that carry `prometheus.io/scrape: "true"`, as Prometheus reads them."""
    return [_target_group(pod) for pod in pods if _asks_to_be_scraped(pod)]


def _asks_to_be_scraped(pod: Pod) -> bool:
    status = pod.get("status", {})
    is_running = status.get("phase") == "Running" and "podIP" in status
    return is_running and _annotations(pod).get(f"{_ANNOTATION}scrape") == "true"


def _target_group(pod: Pod) -> dict[str, Any]:
    wishes, metadata = _annotations(pod), pod["metadata"]
    labels = {
        "namespace": metadata["namespace"],
        "pod": metadata["name"],
        "__metrics_path__": wishes.get(f"{_ANNOTATION}path", "/metrics"),
    }
    port = wishes.get(f"{_ANNOTATION}port", "80")
    return {"targets": [f"{pod['status']['podIP']}:{port}"], "labels": labels}


def _annotations(pod: Pod) -> Mapping[str, str]:
    annotations: Mapping[str, str] = pod["metadata"].get("annotations", {})
    return annotations


def follow_pods() -> Iterator[list[Pod]]:
    """List all pods, then yield them again after each change until the watch ends."""
    listed = json.load(_open("/api/v1/pods"))
    pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
    yield list(pods.values())
    version = listed["metadata"]["resourceVersion"]
    for line in _open(f"/api/v1/pods?watch=true&timeoutSeconds=300&resourceVersion={version}"):
        event = json.loads(line)
        if event["type"] == "ERROR":  # the version has expired; list again
            return
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            pods.pop(uid, None)
        else:
            pods[uid] = event["object"]
        yield list(pods.values())


def write_if_changed(path: Path, text: str) -> None:
    """Replace the file whole: Prometheus may read it at any moment."""
    if path.exists() and path.read_text() == text:
        return
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def main(path: Path) -> None:
    """Keep the file at `path` true for as long as the container lives."""
    # The first process of a container ignores the signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            for pods in follow_pods():
                write_if_changed(path, json.dumps(target_groups(pods), indent=1))
        except (OSError, HTTPException, ValueError) as error:
            # The API server restarts in tests; the last targets stay valid meanwhile.
            print(f"watch failed error={error!r}", file=sys.stderr, flush=True)
            time.sleep(1)


def _open(path: str) -> Any:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    # Read each time: the kubelet renews the token.
    token = (_ACCOUNT / "token").read_text()
    request = Request(f"https://{host}:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    trust = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    return urlopen(request, context=trust, timeout=330)  # noqa: S310  always https, see above


if __name__ == "__main__":
    main(Path(sys.argv[1]))
