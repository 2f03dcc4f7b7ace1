"""The certificate of the port for TLS, from a Secret of the type kubernetes.io/tls.

One SSL context for the life of the process: a certificate loaded into it serves the connections
that come after, so a renewal disturbs none. A pair that does not fit is logged, and the last good
one stays.
"""

import logging
import math
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography import x509
from kubernetes.aio import client

from openinference_router import secret

_log = logging.getLogger(__name__)


class Certificate:
    """`context` serves nobody before the first `load`."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.expires_at = math.nan
        """When the one that serves ends, as seconds since 1970; NaN where that is not known."""
        self._loaded = (b"", b"")

    def load(self, chain: bytes, key: bytes) -> bool:
        """Take over a PEM pair; False when it is loaded already. Raises OSError, ValueError.

        OpenSSL reads files only; these are private and gone at once.
        """
        if (chain, key) == self._loaded:
            return False
        with tempfile.TemporaryDirectory() as folder:
            chain_path, key_path = Path(folder, "chain"), Path(folder, "key")
            chain_path.write_bytes(chain)
            key_path.write_bytes(key)
            _check(chain_path, key_path)
            self.context.load_cert_chain(chain_path, key_path)
        self._loaded = (chain, key)
        self.expires_at = _end(chain)
        return True


def _check(chain_path: Path, key_path: Path) -> None:
    """A pair that does not fit must not leave half of itself in the context that serves."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_path, key_path)


def _end(chain: bytes) -> float:
    """What OpenSSL serves need not please this parser, and only a metric asks it."""
    try:
        return x509.load_pem_x509_certificate(chain).not_valid_after_utc.timestamp()
    except ValueError:
        return math.nan


async def renewals(
    certificate: Certificate, api: client.CoreV1Api, namespace: str, name: str
) -> AsyncIterator[None]:
    """Yields after each change that was loaded; never ends."""
    async for entries in secret.contents(api, namespace, name):
        if not entries:
            continue
        try:
            is_new = certificate.load(entries.get("tls.crt", b""), entries.get("tls.key", b""))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.error("certificate ignored", extra={"secret": name, "reason": str(error)})
            continue
        if is_new:
            _log.info("certificate loaded", extra={"secret": name})
            yield
