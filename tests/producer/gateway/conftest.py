"""A deployment and one gateway of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.producer.gateway.house import House, Replica


@pytest.fixture
def house() -> House:
    """A deployment in memory."""
    return House()


@pytest.fixture
async def replica(house: House) -> AsyncIterator[Replica]:
    """A gateway of it."""
    async with house.gateway() as replica:
        yield replica
