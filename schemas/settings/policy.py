"""The settings of the prompt policy, for gateway and worker alike."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from darkroom.schemas.settings.services import SECTION


class PolicySettings(BaseModel):
    """Which prompts are not painted."""

    model_config = SECTION

    file: Path | None = Field(
        default=None,
        description="A TOML file with the policy (darkroom.schemas.prompts.policy describes its form); every prompt is "
        "painted when not set. Give gateways and workers the same file, because Kafka producers bypass the gateway.",
    )
    reload_s: ClassVar[float] = 5.0
    """How long a changed file may go unnoticed; looking costs one stat call."""
    classifier_timeout_s: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="How long the policy's classifier may take before that counts as its failure; a request waits.",
    )
    classifier_threads_max: ClassVar[int] = 2
    """Prompts that are classified at a time. One that never returns keeps its thread."""
