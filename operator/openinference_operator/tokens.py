"""The token that routers, engines and operator of a namespace share: made once, never changed."""

import base64
import secrets
from collections.abc import Sequence
from time import monotonic

from openinference_operator import names
from openinference_operator.cluster import Cluster
from openinference_operator.drift import differs
from openinference_operator.errors import NameConflict, NotFound
from openinference_operator.manifests.common import signed
from openinference_operator.manifests.router import build_token
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

TOKEN_BYTES = 32
CHECK_SECONDS = 60.0  # Secrets are not watched (the operator may read this one only): look again


class Tokens:
    """Reads the token Secret of each namespace once, and makes it where it is missing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tokens: dict[str, str] = {}
        self._checked: dict[str, tuple[float, frozenset[str]]] = {}

    async def token_of(self, namespace: str) -> str:
        """The token of a namespace. Raises NotFound before `ensure` has made it."""
        if namespace not in self._tokens:
            self._tokens[namespace] = _read(
                await self._cluster.get("Secret", namespace, names.TOKEN_SECRET)
            )
        return self._tokens[namespace]

    async def ensure(self, owners: Sequence[InferenceService]) -> None:
        """Make the Secret if it is missing, and keep its owners up to date."""
        namespace, uids = owners[0].namespace, frozenset(owner.uid for owner in owners)
        checked_at, checked_uids = self._checked.get(namespace, (-CHECK_SECONDS, frozenset()))
        if uids == checked_uids and monotonic() - checked_at < CHECK_SECONDS:
            return
        try:
            secret = await self._cluster.get("Secret", namespace, names.TOKEN_SECRET)
        except NotFound:
            # One that was deleted comes back as it was: running pods have read it.
            token = self._tokens.get(namespace) or secrets.token_urlsafe(TOKEN_BYTES)
            secret = await self._cluster.create(build_token(owners, token))
        if (secret["metadata"].get("labels") or {}).get(
            names.LABEL_MANAGED_BY
        ) != names.FIELD_MANAGER:
            raise NameConflict("Secret", names.TOKEN_SECRET)
        manifest = signed(build_token(owners, None))
        if differs(secret, manifest):
            # This very Secret: one that has gone meanwhile would come back without its token.
            manifest["metadata"]["uid"] = secret["metadata"]["uid"]
            secret = await self._cluster.apply(manifest, force=True)
        self._tokens[namespace] = _read(secret)
        self._checked[namespace] = monotonic(), uids


def _read(secret: Object) -> str:
    token = (secret.get("data") or {}).get(names.TOKEN_KEY)
    if token is None:
        name, key = names.TOKEN_SECRET, names.TOKEN_KEY
        raise NotFound(404, f"Secret {name} has no {key!r}; delete it, and it is made anew")
    return base64.b64decode(token).decode()
