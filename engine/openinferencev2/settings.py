"""Where the command line finds cluster and endpoint: flags, then environment, file, default.

The file is ~/.config/openinference/config.yaml (or where OPENINFERENCE_CONFIG points). A key that
is not known is an error with a suggestion, so that a misspelt one is not silently without effect.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from openinferencev2.errors import CommandError, Exit

PREFIX = "OPENINFERENCE_"
FILE_VARIABLE = "OPENINFERENCE_CONFIG"


class Settings(BaseSettings):
    """Read once per command, never changed."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    context: str = Field("", description="kubeconfig context; empty takes the current one")
    namespace: str = Field("", description="namespace; empty takes that of the context")
    url: str = Field("", description="a router or engine to ask, instead of the cluster's")
    api_key: str = Field("", description="sent as Authorization: Bearer to it")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, config_path())


@dataclass(frozen=True, slots=True)
class Told:
    """A value, and who told it."""

    value: str
    source: str


def config_path() -> Path:
    """The file, which need not exist unless it was asked for. Raises CommandError."""
    if asked := os.environ.get(FILE_VARIABLE):
        if not Path(asked).is_file():
            words = f"{FILE_VARIABLE} names {asked}, which is no file"
            raise CommandError(words, "write it, or unset the variable", Exit.USAGE)
        return Path(asked)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "openinference/config.yaml"


def load(**flags: str | None) -> Settings:
    """The settings in force; a flag that is None was not given. Raises CommandError."""
    given = {name: value for name, value in flags.items() if value is not None}
    _refuse_misspelt(os.environ)
    try:
        return Settings(**given)
    except ValidationError as error:
        raise _invalid(error) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise CommandError(
            f"{config_path()} is not a YAML mapping: {error}", code=Exit.USAGE
        ) from error


def explain(**flags: str | None) -> Mapping[str, Told]:
    """Each setting with its source, as `load` with these flags reads it."""
    settings = load(**flags)
    environment = EnvSettingsSource(Settings)()
    file = YamlConfigSettingsSource(Settings, config_path())()

    def source(name: str) -> str:
        if flags.get(name) is not None:
            return f"flag --{name}"
        if name in environment:
            return f"environment {PREFIX}{name.upper()}"
        return str(config_path()) if name in file else "default"

    return {name: Told(getattr(settings, name), source(name)) for name in Settings.model_fields}


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Other programs of ours have variables with this prefix too; only a near miss is an error."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in environment:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.92)
        if near and name not in known:
            remedy = f"did you mean {near[0]}?"
            raise CommandError(f"there is no setting {name} (environment)", remedy, Exit.USAGE)


def _invalid(error: ValidationError) -> CommandError:
    flaw: Any = error.errors()[0]
    name = ".".join(map(str, flaw["loc"]))
    if flaw["type"] != "extra_forbidden":
        return CommandError(f"{name}: {flaw['msg']}", code=Exit.USAGE)
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    known = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(Settings.model_fields)}"
    return CommandError(f"{config_path()}: there is no setting '{name}'", known, Exit.USAGE)
