"""Who is who in the cluster: an authority made at `up`, and the certificates it signs.

Kubernetes reads a client's user from the certificate's common name and its groups from the
organisation, so a certificate is all a component needs to be known. The keys live below the
state folder, readable by root only, and end with the cluster.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import places
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.shell import run

# Longer than any local cluster lives; they are made anew by `down` and `up`.
_DAYS = "365"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key and its signed certificate, in two files."""

    certificate: Path
    key: Path


AUTHORITY = Certificate(places.CERTIFICATES / "ca.crt", places.CERTIFICATES / "ca.key")
SERVICE_ACCOUNT_KEY = places.CERTIFICATES / "service-accounts.key"


def ensure_authority() -> None:
    """Make the authority, and the key that signs the tokens of service accounts."""
    places.CERTIFICATES.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not AUTHORITY.certificate.exists():
        _request(AUTHORITY, "/CN=openinference-cluster")
    if not SERVICE_ACCOUNT_KEY.exists():
        # RSA: of a private elliptic key, the API server cannot derive the public one.
        draft = _draft_of(SERVICE_ACCOUNT_KEY)
        run("openssl", "genpkey", "-algorithm", "RSA", "-out", str(draft))
        draft.replace(SERVICE_ACCOUNT_KEY)


def api_server(plan: AddressPlan) -> Certificate:
    """The certificate that the API server shows to its clients."""
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    names.append("kubernetes.default.svc.cluster.local")
    addresses = ["127.0.0.1", str(plan.node(1)), str(plan.api_service)]
    return ensure("kube-apiserver", [], names, addresses)


def kubelet(plan: AddressPlan, node: int) -> Certificate:
    """A node's certificate, as a client of the API server and as the server of logs and exec."""
    name = f"node-{node}"
    return ensure(f"system:node:{name}", ["system:nodes"], [name], [str(plan.node(node))])


def ensure(
    user: str,
    groups: Sequence[str] = (),
    names: Sequence[str] = (),
    addresses: Sequence[str] = (),
) -> Certificate:
    """The certificate of a user, made and signed at the first call."""
    stem = places.CERTIFICATES / user.replace(":", "-")
    made = Certificate(stem.with_suffix(".crt"), stem.with_suffix(".key"))
    if not made.certificate.exists():
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        alternatives = [f"DNS:{name}" for name in names] + [f"IP:{ip}" for ip in addresses]
        extensions = ["keyUsage=digitalSignature", "extendedKeyUsage=serverAuth,clientAuth"]
        if alternatives:
            extensions.append("subjectAltName=" + ",".join(alternatives))
        signer = ("-CA", str(AUTHORITY.certificate), "-CAkey", str(AUTHORITY.key))
        options = [option for extension in extensions for option in ("-addext", extension)]
        _request(made, subject, *signer, "-addext", "basicConstraints=critical,CA:FALSE", *options)
    return made


def kubeconfig(api_url: str, client: Certificate) -> str:
    """A kubeconfig (JSON is YAML) that holds everything it names, so it can be moved."""
    cluster = {"server": api_url, "certificate-authority-data": _encoded(AUTHORITY.certificate)}
    user = {
        "client-certificate-data": _encoded(client.certificate),
        "client-key-data": _encoded(client.key),
    }
    name = "openinference"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(config, indent=2)


def _request(made: Certificate, subject: str, *options: str) -> None:
    draft = _draft_of(made.certificate)
    run(
        *("openssl", "req", "-x509", "-noenc", "-days", _DAYS),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", str(made.key)),
        *("-subj", subject, "-out", str(draft), *options),
    )
    draft.replace(made.certificate)


def _draft_of(path: Path) -> Path:
    """Where a file is written before it is renamed, so that a crash leaves none that is cut."""
    return path.with_suffix(".draft")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
