"""One gateway, one worker on a simulated device and one browser for all tests here; a new page for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from darkroom.consumer.stack import Stack
    from tests.browser.site import Site, Watch

RECIPES = Path(__file__).parents[2] / "examples" / "recipes.toml"
STEP_MS = 30
"""150 steps, the most that a request can have, then take long enough to be caught in the middle."""


@pytest.fixture(scope="package")
def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page's address is `site.gateway.url`."""
    from tests.browser.site import Site

    environment = {**stack.environment, "DARKROOM_MODEL__RECIPES_FILE": str(RECIPES)}
    made = Site(environment, tmp_path_factory.mktemp("site"), "--simulated-device", str(STEP_MS))
    yield made
    made.stop()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium; tests that need it are skipped where there is none."""
    from tests.browser.site import NO_CHROMIUM, browsing, chromium

    executable = chromium()
    if executable is None:
        pytest.skip(NO_CHROMIUM)
    with browsing(executable) as opened:
        yield opened


@pytest.fixture
def watch(browser: Browser, site: Site) -> Iterator[Watch]:
    """A new page, open, on a screen of 1280 x 900. Whatever it may never do fails the test."""
    from tests.browser.site import SEEN_MS_MAX, Watch

    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(SEEN_MS_MAX)
    watching = Watch(context.new_page(), site.gateway.url)
    watching.page.goto(site.gateway.url)
    yield watching
    context.close()
    assert watching.problems == []


@pytest.fixture
def page(watch: Watch) -> Page:
    """That page."""
    return watch.page
