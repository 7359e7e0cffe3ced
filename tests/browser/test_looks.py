"""Proves that the page can be read: in both themes, on a phone, by whoever cannot see it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.site import Site, Watch
from tests.browser.test_page import picture_is_shown, wait_for, write

pytestmark = [pytest.mark.stack, pytest.mark.browser]

CONTRAST_MIN = 4.5
"""WCAG 2.2, success criterion 1.4.3, for text."""

# Every text that is shown, with the colours it is shown in: the nearest opaque background below it.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => colour.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const below = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const apart = element.closest("svg, .visually-hidden, [aria-disabled=true]");
    if (!own || apart || !element.checkVisibility()) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(element).color)), luminance(below(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push({ text: element.textContent.trim().slice(0, 40), ratio });
  }
  return found;
}"""

TOO_WIDE = """[...document.querySelectorAll("body *:not(.skip, .visually-hidden)")].filter((e) => e.checkVisibility())
  .filter((e) => e.getBoundingClientRect().right > 361 || e.getBoundingClientRect().left < -1)
  .map((e) => `${e.localName}.${e.className}`)"""
# WCAG 2.2, success criterion 2.5.8: targets of 24 x 24 pixels.
TOO_SMALL = """[...document.querySelectorAll("button, select, a:not(.skip), summary")]
  .filter((e) => e.checkVisibility())
  .filter((e) => e.getBoundingClientRect().width < 24 || e.getBoundingClientRect().height < 24)
  .map((e) => e.outerHTML)"""
NAMELESS = """[...document.querySelectorAll("button, input, select, textarea, a, img, [role=application]")]
  .filter((e) => e.type !== "file" && !e.getAttribute("aria-label") && !e.labels?.length && !e.textContent.trim())
  .filter((e) => e.getAttribute("alt") === null)
  .map((e) => e.outerHTML)"""
DESCRIBED_BY_NOTHING = """[...document.querySelectorAll("[aria-describedby]")]
  .map((e) => e.getAttribute("aria-describedby")).filter((id) => !document.getElementById(id))"""
LISTEN = """window.said = [];
  new MutationObserver(() => said.push(announcer.textContent)).observe(announcer, { childList: true })"""


def ground(page: Page) -> str:
    colour: str = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return colour


def test_both_themes_are_legible_and_the_choice_is_kept(page: Page, watch: Watch) -> None:
    watch.refusals_expected = True
    write(page, "a dancer", steps="3")
    page.click("[type=submit]")
    picture_is_shown(page)
    page.fill("#steps", "200")
    page.click("[type=submit]")
    expect(page.locator("#steps-note")).not_to_be_empty()
    seen = {}
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        seen[theme] = ground(page)
        texts: list[dict[str, Any]] = page.evaluate(CONTRASTS)
        assert len(texts) > 30
        assert [text for text in texts if text["ratio"] < CONTRAST_MIN] == []
    assert seen["light"] != seen["dark"]
    toggle = page.locator("[data-theme-toggle]")
    toggle.click()
    expect(toggle).to_have_attribute("aria-label", "Theme: light")
    assert ground(page) == seen["light"], "the choice wins over the system's dark"
    page.reload()
    assert ground(page) == seen["light"]


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_a_phone_scrolls_one_way_only(browser: Browser, site: Site, direction: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    watch = Watch(page, site.gateway.url)
    page.goto(site.gateway.url)
    page.evaluate("direction => document.documentElement.dir = direction", direction)
    write(page, "a very long prompt about a dancer " + "w" * 120, steps="3", count="2")
    page.click("[type=submit]")
    picture_is_shown(page, 2)
    page.tap(".tile .open")
    expect(page.locator("#viewer")).to_be_visible()
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("[data-close]")
    assert page.evaluate(TOO_SMALL) == []
    context.close()
    assert watch.problems == []


def test_everything_has_a_name(page: Page) -> None:
    page.click(".settings summary")
    nameless = page.evaluate(NAMELESS)
    assert nameless == []
    identifiers = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(identifiers) == len(set(identifiers))
    assert page.evaluate(DESCRIBED_BY_NOTHING) == []


def test_what_happens_is_said_aloud(page: Page) -> None:
    page.evaluate(LISTEN)
    write(page, "a listener", steps="3")
    page.click("[type=submit]")
    picture_is_shown(page)
    wait_for(page, "said.some((words) => words.startsWith('Done') && words.includes('a listener'))")
