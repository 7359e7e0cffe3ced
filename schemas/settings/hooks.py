"""The settings of callbacks (webhooks): who may have them, and where they may go."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from darkroom.schemas.settings.services import SECTION, Names


class HooksSettings(BaseModel):
    """Callbacks: completions that `darkroom hooks` posts to addresses of the tenants' choice."""

    model_config = SECTION

    file: Path | None = Field(
        default=None,
        description="A TOML file with the tenants that may have callbacks and the secrets that sign them. Gateways and "
        "`darkroom hooks` need the same; without it a request with a callback_url is refused.",
    )
    allowed_networks: Names = Field(
        default=(),
        max_length=50,
        description="Networks such as 10.2.0.0/16 that callbacks may go to although they are not public. Loopback, "
        "private and link-local addresses are refused otherwise, cloud metadata services among them.",
    )
    timeout_s: float = Field(
        default=15.0, ge=0.1, le=60, description="How long one delivery may take, from the look-up to the answer."
    )
    give_up_s: float = Field(
        default=86_400.0,
        ge=1,
        le=604_800,
        description="How long after its job's end a callback is tried before it becomes a dead letter: a day.",
    )
    metrics_port: int = Field(
        default=9_109, ge=0, le=65_535, description="The port of /livez, /readyz and /metrics; 0 takes a free one."
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="The address of that port. Containers set 0.0.0.0."
    )

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                ipaddress.ip_network(name)
            except ValueError as error:
                raise ValueError(f"allowed_networks has {name!r}; a network is 10.2.0.0/16 or fd00:1::/64") from error
        return names
