"""The places that settings come from, each read into nested dictionaries, and how they lie over each other.

Nothing is checked here but that a place can be read and that its sections exist: values are checked once, when
`darkroom.schemas.settings.Settings` is made of all the layers together. Everything raises `SettingsError` alone.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource

from darkroom.schemas.errors import SettingsError
from darkroom.schemas.settings.secret_files import SecretInFile

ENV_PREFIX: Final = "DARKROOM_"
STACK_DIR_VARIABLE: Final = "DARKROOM_STACK_DIR"
ADDRESSES: Final = (("kafka", "bootstrap_servers"), ("s3", "endpoint"))
"""The settings that say which Kafka and which store; where one is set, no stack is looked for."""


class Layer(NamedTuple):
    """The settings of one place, and the place's name as the end of "set by ..."."""

    origin: str
    values: dict[str, Any]


def env_name(path: tuple[str, ...]) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + "__".join(path).upper()


def from_variables(variables: Mapping[str, str], settings: type[BaseSettings]) -> dict[str, Any]:
    """The settings in environment variables. Empty ones count as not set; others' variables are passed over."""
    sections = [name for name, _ in _sections(settings)]
    for name in variables:
        section, delimiter, _ = name.removeprefix(ENV_PREFIX).partition("__")
        if not name.startswith(ENV_PREFIX):
            continue
        if delimiter and section.lower() not in sections:
            known = [env_name((known,)) for known in sections]
            raise SettingsError(f"{name} is not a setting{nearest(ENV_PREFIX + section, known)}. Correct or unset it.")
        if not delimiter and section.lower() in sections:
            raise SettingsError(f"{name} is a section of settings. Set them one by one, as {name}__NAME.")
    return _Variables(variables, settings)()


def from_toml(config: Path) -> dict[str, Any]:
    """The settings in a TOML file, a table for each section."""
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"The settings file {config} cannot be read ({error.strerror}). Check the path given with --config."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {config} is not TOML: {error}. Correct the file.") from error


def from_flags(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in flags: nested, or by dotted path. None is a flag that was not given."""
    nested: dict[str, Any] = {}
    for dotted, given in overrides.items():
        value = from_flags(given) if isinstance(given, Mapping) else given
        if value is None or value == {}:
            continue
        *sections, name = dotted.split(".")
        branch = {name: value}
        for section in reversed(sections):
            branch = {section: branch}
        nested = merged(nested, branch)
    return nested


def running_stack(variables: Mapping[str, str]) -> Path | None:
    """The state file of the stack that `darkroom up` started in this folder, or where the variable says."""
    path = Path(variables.get(STACK_DIR_VARIABLE) or ".darkroom") / "stack.json"
    return path if path.is_file() else None


def from_stack(path: Path, settings: type[BaseSettings]) -> dict[str, Any]:
    """The settings in a stack's state file: its `environment` object of environment variables."""
    try:
        environment = json.loads(path.read_text(encoding="utf-8"))["environment"]
        return from_variables({str(name): str(value) for name, value in environment.items()}, settings)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        variables = " and ".join(env_name(address) for address in ADDRESSES)
        raise SettingsError(
            f"The running stack's {path} cannot be read. Run `darkroom up` in this folder, or set {variables}."
        ) from error


def names_an_address(layers: list[Layer]) -> bool:
    """Return whether any layer says which Kafka or which store to use."""
    return any(found(layer.values, path) is not None for layer in layers for path in ADDRESSES)


def with_secrets_read(layer: Layer, settings: type[BaseSettings]) -> Layer:
    """The layer with each `<secret>_file` replaced by what the file holds."""
    values = dict(layer.values)
    for section_name, secret in secrets(settings):
        section = values.get(section_name)
        if not isinstance(section, Mapping) or f"{secret}_file" not in section:
            continue
        others = dict(section)
        path, variable = others.pop(f"{secret}_file"), env_name((section_name, secret))
        if secret in others:
            raise SettingsError(f"{variable} and {variable}_FILE are both set by {layer.origin}. Unset one of them.")
        values[section_name] = {**others, secret: _secret_in(Path(str(path)), f"{variable}_FILE")}
    return Layer(layer.origin, values)


def secrets(settings: type[BaseSettings]) -> Iterator[tuple[str, str]]:
    """The paths of the settings that are secret."""
    for section_name, section in _sections(settings):
        for name, field in section.model_fields.items():
            if "SecretStr" in str(field.annotation):
                yield section_name, name


def merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` over `lower`, section by section."""
    result = dict(lower)
    for name, value in upper.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def found(values: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return the value at a path, or None where there is none."""
    value: Any = values
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def nearest(name: str, known: list[str]) -> str:
    """A question after the name that was probably meant; empty where none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (is {close[0]} meant?)" if close else ""


def _sections(settings: type[BaseSettings]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def _secret_in(path: Path, variable: str) -> SecretInFile:
    try:
        return SecretInFile(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable} names {path}, which cannot be read. Check the path and its rights.") from error
    except ValueError as error:
        raise SettingsError(
            f"{variable} names {path}, which does not hold a secret. Write the secret alone into it."
        ) from error


class _Variables(EnvSettingsSource):
    """Reads variables that are passed in: the process's own, a test's, or those in a stack's state file."""

    def __init__(self, variables: Mapping[str, str], settings: type[BaseSettings]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items() if value != ""}
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables
