"""The settings of the prompt policy, for gateway and worker alike."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from darkroom.schemas.settings.services import SECTION


class PolicySettings(BaseModel):
    """Which prompts are not painted, and which pictures are not stored."""

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
    picture_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=120,
        description="How long the policy's classifier of pictures may take over one picture; a request waits.",
    )
    picture_threads_max: ClassVar[int] = 2
    """Pictures that are classified at a time, for as long as a classifier on the processor takes all of it."""
    classifier_threads_max: ClassVar[int] = 2
    """Prompts that are classified at a time. One that never returns keeps its thread."""
