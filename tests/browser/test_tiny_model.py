"""Proves the whole way once with a model that paints: the built-in tiny one, at its own size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from darkroom.consumer import demo
from tests.browser.site import Site, Watch
from tests.browser.test_page import picture_is_shown, write

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

PHOTO = next(Path(demo.__file__).parent.glob("demo_photo.[jp]*"))
WIDTH = "image => image.decode().then(() => image.naturalWidth)"
PAINTED_MS_MAX = 100_000
"""Seconds on a quiet machine; a busy one gives torch little."""

pytestmark = [pytest.mark.stack, pytest.mark.browser, pytest.mark.render]


@pytest.fixture(scope="module")
def painting(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose worker paints."""
    environment = {**stack.environment, "DARKROOM_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    site = Site(environment, tmp_path_factory.mktemp("painting"))
    yield site
    site.stop()


@pytest.fixture
def page(painting: Site, browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    watch = Watch(page, painting.gateway.url)
    page.goto(painting.gateway.url)
    yield page
    page.close()
    assert watch.problems == []


def test_the_tiny_model_paints_a_pose_from_the_page(page: Page) -> None:
    page.click("[title='Arms up']")
    write(page, "a person in red", steps="8", seed="3")
    page.click("[type=submit]")
    expect(page.locator(".tile")).to_have_count(1, timeout=PAINTED_MS_MAX)
    tile = picture_is_shown(page)
    expect(tile.get_by_title("figures found in the photo")).to_have_count(0)
    tile.locator(".open").click()
    known = page.locator("[data-known]")
    expect(known).to_contain_text("128 × 128")
    expect(known).to_contain_text(re.compile(r"Prompt read\s*\d+ tokens"))
    expect(known).not_to_contain_text("simulated")


def test_the_figures_found_in_a_photo_are_corrected_over_the_picture(page: Page) -> None:
    page.set_input_files("[data-file]", PHOTO)
    write(page, "a person in blue", steps="6", seed="4")
    page.click("[type=submit]")
    expect(page.locator(".tile")).to_have_count(1, timeout=PAINTED_MS_MAX)
    page.locator(".tile").get_by_title("figures found in the photo").click()
    expect(page.get_by_label("Figures", exact=True)).to_be_checked()
    behind = page.locator("[data-behind]")
    expect(behind).to_be_visible()
    with Image.open(PHOTO) as photo:
        assert behind.evaluate(WIDTH) == photo.width
    stage, frame = page.locator("[data-stage]").bounding_box(), behind.bounding_box()
    assert frame == stage, "the figures lie over the picture point by point"
    request_id = page.locator(".tile").first.get_attribute("data-job")
    state = page.evaluate("id => fetch(`/v1/generations/${id}`).then((got) => got.json())", request_id)
    found = [one["points"] for one in state["completion"]["found"]]
    assert found
    with page.expect_request(lambda call: call.method == "POST") as posted:
        page.click("[type=submit]")
    people = posted.value.post_data_json["pose"]["people"]
    assert [[point is None for point in one] for one in people] == [[point is None for point in one] for one in found]
    for sent, seen in zip(people, found, strict=True):
        for ours, theirs in zip(sent, seen, strict=True):
            assert ours is None or ours == pytest.approx(theirs[:2], abs=1e-3)
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320, "the tool for the picture makes the page wider"
    page.set_viewport_size({"width": 1280, "height": 720})
    page.click("[data-tool=behind]")
    expect(behind).to_be_hidden()
    page.reload()
    page.locator(".tile").last.get_by_title("figures found in the photo").click()
    expect(behind).to_be_visible()
    assert behind.evaluate(WIDTH) == 128, "the page has the photo no more, and shows what was painted"
