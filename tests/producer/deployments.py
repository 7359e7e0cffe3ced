"""A deployment that nobody else uses, on the shared stack: topics with a prefix, a group and a bucket of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from darkroom.schemas.settings import Settings, load_settings

MakeSettings = Callable[..., Settings]


def deployment_on(environment: Mapping[str, str]) -> MakeSettings:
    """Makes settings of one such deployment; arguments are further settings, `s3__bucket` for `s3.bucket`."""
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
        return load_settings(overrides=own | dotted, environ=environment)

    return make
