"""All settings of a process, and where they come from.

Flags win over the environment, the environment over a TOML file, the file over the defaults. A setting's variable
is its path in upper case: `kafka.group_id` is `DARKROOM_KAFKA__GROUP_ID`. A secret can be in a file of its own,
which the same name with `_FILE` names: `DARKROOM_S3__SECRET_KEY_FILE`.

Where nothing says which Kafka and which store to use and `darkroom up` runs a stack in the current folder (or in
`DARKROOM_STACK_DIR`), the addresses in its `stack.json` are used; `Settings.discovered_stack` tells so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from darkroom.schemas.errors import SettingsError, bounded
from darkroom.schemas.faults import said
from darkroom.schemas.settings.access import AccessSettings
from darkroom.schemas.settings.gateway import GatewaySettings
from darkroom.schemas.settings.hooks import HooksSettings
from darkroom.schemas.settings.model_source import StorePrefix
from darkroom.schemas.settings.policy import PolicySettings
from darkroom.schemas.settings.provenance import ProvenanceSettings
from darkroom.schemas.settings.services import KafkaSettings, S3Settings, TopicSettings
from darkroom.schemas.settings.sources import (
    ENV_PREFIX,
    Layer,
    env_name,
    found,
    from_flags,
    from_stack,
    from_toml,
    from_variables,
    merged,
    names_an_address,
    nearest,
    running_stack,
    secrets,
    with_secrets_read,
)
from darkroom.schemas.settings.worker import (
    BatchSettings,
    LimitSettings,
    LogSettings,
    ModelSettings,
    SimulatedSettings,
    WorkerSettings,
)

__all__ = [
    "AccessSettings",
    "BatchSettings",
    "GatewaySettings",
    "HooksSettings",
    "KafkaSettings",
    "LimitSettings",
    "LogSettings",
    "ModelSettings",
    "PolicySettings",
    "ProvenanceSettings",
    "S3Settings",
    "Settings",
    "SettingsError",
    "SimulatedSettings",
    "TopicSettings",
    "WorkerSettings",
    "load_settings",
    "shown",
]

MASK: Final = "********"
_SHOW = "`darkroom serve --show-settings` prints the settings in force"


class Settings(BaseSettings):
    """All settings. Frozen; made by `load_settings`, or with defaults by `Settings()`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        validate_default=True,
        hide_input_in_errors=True,  # one section's error has the whole section in it, passwords too
    )

    kafka: KafkaSettings = Field(default=KafkaSettings(), description="Kafka.")
    topics: TopicSettings = Field(default=TopicSettings(), description="Topics.")
    s3: S3Settings = Field(default=S3Settings(), description="The object store.")
    model: ModelSettings = Field(default=ModelSettings(), description="The model.")
    batch: BatchSettings = Field(default=BatchSettings(), description="Batches.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$",
        description="auto takes a GPU where there is one; cpu, mps, cuda and cuda:1 (or another number) name one.",
    )
    simulated: SimulatedSettings = Field(default=SimulatedSettings(), description="The simulated device.")
    limits: LimitSettings = Field(default=LimitSettings(), description="Bounds.")
    worker: WorkerSettings = Field(default_factory=WorkerSettings, description="The worker.")
    gateway: GatewaySettings = Field(default=GatewaySettings(), description="The HTTP gateway.")
    hooks: HooksSettings = Field(default=HooksSettings(), description="Callbacks.")
    log: LogSettings = Field(default=LogSettings(), description="The log.")
    access: AccessSettings = Field(default=AccessSettings(), description="Who may do what at the gateway.")
    policy: PolicySettings = Field(default=PolicySettings(), description="The policy for prompts and pictures.")
    provenance: ProvenanceSettings = Field(default=ProvenanceSettings(), description="What pictures say of themselves.")

    _discovered_stack: Path | None = PrivateAttr(default=None)

    @property
    def discovered_stack(self) -> Path | None:
        """The stack.json whose addresses are used because nothing else names any; None where settings do."""
        return self._discovered_stack

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: what the process inherits is read in one place, `load_settings`."""
        return (sources["init_settings"],)

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.kafka.rebalance_timeout_ms <= self.worker.drain_s * 1000:
            raise ValueError("kafka.rebalance_timeout_ms must be above worker.drain_s, or a draining worker is evicted")
        if self.topics.max_message_bytes < self.limits.request_bytes_max:
            raise ValueError("topics.max_message_bytes must be at least limits.request_bytes_max")
        return self


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force.

    `overrides` are the flags: nested mappings, or dotted paths (`{"kafka.group_id": "x"}`); a value of None is a
    flag that was not given. `environ` is the process's environment unless given. Raises `SettingsError`.
    """
    variables = os.environ if environ is None else environ
    layers = [
        Layer("the environment", from_variables(variables, Settings)),
        Layer("a flag", from_flags(overrides or {})),
    ]
    if config is not None:
        layers.insert(0, Layer(f"the file {config}", from_toml(config)))
    stack = None if names_an_address(layers) else running_stack(variables)
    if stack is not None:
        layers.insert(0, Layer(f"the running stack's {stack}", from_stack(stack, Settings)))
    values: dict[str, Any] = {}
    for layer in layers:
        values = merged(values, with_secrets_read(layer, Settings).values)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_explain(error, layers)) from error
    settings._discovered_stack = stack
    return settings


def shown(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every setting by its path: `{"env": name, "value": what is in force, "description": ...}`, secrets masked.

    The values are what JSON can hold; a secret that is set is a row of asterisks, one that is not is None.
    """
    entries: dict[str, dict[str, Any]] = {}
    for path, value, description in _leaves(settings, ()):
        entries[".".join(path)] = {"env": env_name(path), "value": _showable(value), "description": description}
    return entries


def _showable(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path | StorePrefix):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _leaves(section: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Every setting below a section: its path, its value and its description."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value, field.description or ""


def _explain(error: ValidationError, layers: list[Layer]) -> str:
    """One sentence for the first error, with its variable, its origin and the remedy."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    path = tuple(str(step) for step in first["loc"])[:2]
    message = said(first)
    remedy = f" Correct or unset it; {_SHOW}."
    if len(problems) > 1:
        remedy += f" ({len(problems) - 1} more cannot be used.)"
    if not path:
        return f"The settings do not fit together: {message}. Change one of them; {_SHOW}."
    origin = next((layer.origin for layer in reversed(layers) if found(layer.values, path) is not None), "default")
    inside = ".".join(str(step) for step in first["loc"][2:])
    if inside:
        message = f"{inside} is unknown there" if first["type"] == "extra_forbidden" else f"{inside} {message}"
    elif first["type"] == "extra_forbidden":
        names = [env_name(known) for known, _, _ in _leaves(Settings(), ())]
        return f"{env_name(path)}, set by {origin}, is not a setting{nearest(env_name(path), names)}.{remedy}"
    if len(path) == 1 and isinstance(getattr(Settings(), path[0]), BaseModel):
        return f"The {env_name(path)}__* settings do not fit together: {message}. Change one of them; {_SHOW}."
    if first["type"] == "string_pattern_mismatch" and not inside:
        message = "; ".join(text for known, _, text in _leaves(Settings(), ()) if known == path).rstrip(".")
    given = re.sub(r"//[^/@]*@", f"//{MASK}@", repr(first["input"]))  # a password that was put into an address
    value = MASK if path in set(secrets(Settings)) else bounded(given, 100)
    return f"{env_name(path)} is {value}, set by {origin}: {message}.{remedy}"
