"""Proves that whatever bytes stand on whatever topic, a worker and every reader live, and nothing good is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.strangers.any_record import problems, prove, settings_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


async def test_random_records_on_every_topic_end_nobody(stack: Stack, tmp_path: Path) -> None:
    seen = await prove(settings_on(stack, tmp_path), 3_000)
    assert problems(seen) == []
    assert seen.good == 75
