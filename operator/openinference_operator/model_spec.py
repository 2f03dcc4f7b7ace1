"""spec.model: where the weights are, and how they come to the replicas."""

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from openinference_operator.errors import SpecError
from openinference_operator.fields import Fields

LOCAL_SCHEMES = ("file", "pvc", "package")
REMOTE_SCHEMES = ("hf", "s3", "gs", "az", "http", "https")
URI_SCHEMES = LOCAL_SCHEMES + REMOTE_SCHEMES


@dataclass(frozen=True, slots=True)
class Model:
    """The model and the name clients use for it; empty strings for what is not set.

    `claim`: the PersistentVolumeClaim that fetched models are kept in. `secret`: credentials.
    """

    uri: str
    name: str
    revision: str = ""
    sha256: str = ""
    secret: str = ""
    claim: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether it must be fetched before an engine can open it."""
        return self.uri.partition("://")[0] in REMOTE_SCHEMES

    @property
    def volume_claim(self) -> str:
        """The PersistentVolumeClaim that replicas find it in; empty if they find it elsewhere."""
        scheme, _, rest = self.uri.partition("://")
        return rest.partition("/")[0] if scheme == "pvc" else self.claim

    @property
    def folder(self) -> str:
        """Name of its folder: the same for equal models, so that services share one copy."""
        return _digest(self.uri, self.revision, self.sha256)[:16]

    @property
    def job(self) -> str:
        """Tells Jobs of one service apart: another one for whatever changes how it is fetched."""
        return _digest(self.uri, self.revision, self.sha256, self.claim, self.secret)[:8]

    @property
    def path(self) -> str:
        """Path inside the volume of models: a GGUF file, or a folder with safetensors."""
        name = PurePosixPath(self.uri).name
        return f"{self.folder}/{name}" if name.endswith(".gguf") else self.folder


def parse_model(fields: Fields, service_name: str) -> Model:
    """Read spec.model. Raises SpecError."""
    model = Model(
        uri=_uri(fields),
        name=fields.text("name") or service_name,
        revision=fields.text("revision") or "",
        sha256=fields.text("sha256") or "",
        secret=fields.section("secretRef").text("name") or "",
        claim=fields.section("cache").text("pvc") or "",
    )
    if model.revision and not model.uri.startswith("hf://"):
        raise SpecError(fields.at("revision"), "is for hf:// only; remove it")
    if model.sha256 and not (model.is_remote and model.uri.endswith(".gguf")):
        raise SpecError(fields.at("sha256"), "is for one .gguf file that is fetched; remove it")
    if (model.claim or model.secret) and not model.is_remote:
        field = "cache" if model.claim else "secretRef"
        raise SpecError(fields.at(field), f"is for models that are fetched, not {model.uri}")
    return model


def _uri(fields: Fields) -> str:
    uri = fields.required_text("uri")
    scheme, separator, rest = uri.partition("://")
    if scheme not in URI_SCHEMES or not separator or not rest:
        known = ", ".join(f"{known}://" for known in URI_SCHEMES)
        raise SpecError(fields.at("uri"), f"is {uri!r}; use one of the schemes {known}")
    if scheme != "file" and not rest.partition("/")[2]:
        raise SpecError(fields.at("uri"), f"is {uri!r}; name a file: {scheme}://<name>/<path>")
    if scheme in ("http", "https") and not uri.endswith(".gguf"):
        raise SpecError(fields.at("uri"), f"is {uri!r}; over HTTP name one .gguf file")
    return uri


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
