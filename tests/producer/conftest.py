"""A deployment of its own for each test on the shared stack: topics with a prefix nobody else has, and a bucket."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from schemas.settings import Settings, load_settings

if TYPE_CHECKING:
    from consumer.stack import Stack

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(stack: Stack) -> MakeSettings:
    """Settings of a deployment that nobody else uses; arguments are further settings by dotted path."""
    name = f"t{uuid.uuid4().hex[:12]}"

    def make(**overrides: Any) -> Settings:
        own: dict[str, Any] = {
            "topics.prefix": f"{name}.",
            "topics.requests_partitions": 3,
            "topics.completions_partitions": 2,
            "kafka.group_id": name,
            "s3.bucket": name,
        }
        dotted = {path.replace("__", "."): value for path, value in overrides.items()}
        return load_settings(overrides=own | dotted, environ=stack.environment)

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """The same, with nothing further."""
    return make_settings()
