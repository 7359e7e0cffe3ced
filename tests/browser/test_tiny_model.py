"""Proves the whole way once with a model that paints: the built-in tiny one, at its own size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.site import Site, Watch
from tests.browser.test_page import picture_is_shown, write

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

PAINTED_MS_MAX = 100_000
"""Seconds on a quiet machine; a busy one gives torch little."""

pytestmark = [pytest.mark.stack, pytest.mark.browser, pytest.mark.render]


def test_the_tiny_model_paints_a_pose_from_the_page(stack: Stack, browser: Browser, tmp_path: Path) -> None:
    site = Site({**stack.environment, "DARKROOM_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}, tmp_path)
    try:
        page = browser.new_page()
        watch = Watch(page, site.gateway.url)
        page.goto(site.gateway.url)
        page.click("[title='Arms up']")
        write(page, "a person in red", steps="8", seed="3")
        page.click("[type=submit]")
        expect(page.locator(".tile")).to_have_count(1, timeout=PAINTED_MS_MAX)
        tile = picture_is_shown(page)
        tile.locator(".open").click()
        known = page.locator("[data-known]")
        expect(known).to_contain_text("128 × 128")
        expect(known).to_contain_text(re.compile(r"Prompt read\s*\d+ tokens"))
        expect(known).not_to_contain_text("simulated")
        page.close()
        assert watch.problems == []
    finally:
        site.stop()
