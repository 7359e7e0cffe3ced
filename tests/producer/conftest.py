"""Settings of a deployment of its own for each test on the shared stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.schemas.settings import Settings
from tests.producer.deployments import MakeSettings, deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack


@pytest.fixture
def make_settings(stack: Stack) -> MakeSettings:
    """Makes settings; arguments are further ones, `s3__bucket` for `s3.bucket`."""
    return deployment_on(stack.environment)


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """The same, with nothing further."""
    return make_settings()
