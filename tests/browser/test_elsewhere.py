"""Proves in a browser that the page works behind a proxy's prefix, and that an allowed origin's page may call."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from darkroom.producer.gateway.access.keys import new_key
from tests.browser.site import SEEN_MS_MAX, GatewayProcess, Site
from tests.integration.fleet import wait_until
from tests.loopback import QuietHandler, served
from tests.strangers.prefixed import behind_a_prefix

pytestmark = [pytest.mark.stack, pytest.mark.browser]

CALL = """async ({ url, options }) => {
  try {
    const answer = await fetch(url, options);
    const text = await answer.text();
    return { status: answer.status, text, location: answer.headers.get("location") };
  } catch (error) {
    return { failed: error.name };
  }
}"""


@pytest.fixture
def opened(browser: Browser) -> Iterator[Page]:
    """A page of the browser, without an address."""
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(SEEN_MS_MAX)
    yield context.new_page()
    context.close()


def test_page_and_docs_work_behind_a_prefix(site: Site, opened: Page) -> None:
    missed: list[str] = []
    opened.on("response", lambda answer: missed.append(answer.url) if answer.status >= 400 else None)
    with behind_a_prefix(site.gateway.url.rstrip("/")) as root:
        opened.goto(f"{root}/docs")
        expect(opened.locator("details").filter(has_text="/v1/generations").first).to_be_visible()
        assert opened.evaluate("getComputedStyle(document.body).maxWidth") != "none", "the style was not loaded"
        opened.goto(f"{root}/")
        opened.fill("#prompt", "a dancer behind a prefix")
        opened.click("[type=submit]")
        expect(opened.locator(".tile")).to_have_count(1)
        opened.locator(".tile").scroll_into_view_if_needed()
        seen = "document.querySelector('.tile img').naturalWidth > 0"
        wait_until(lambda: bool(opened.evaluate(seen)), SEEN_MS_MAX / 1000, "the picture to be shown")
        assert opened.locator(".tile a").get_attribute("href", timeout=SEEN_MS_MAX)
    assert missed == []


class _Shop(QuietHandler):
    def do_GET(self) -> None:  # noqa: N802 - the base class looks for this name
        content = b"<!doctype html><title>A shop</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_page_of_an_allowed_origin_calls_with_its_key_alone(site: Site, opened: Page, tmp_path: Path) -> None:
    key, entry = new_key("default", ["submit", "read"], now=datetime.now(UTC))
    (tmp_path / "keys.jsonl").write_text(entry.line())
    with served(_Shop) as shop, served(_Shop) as rival:
        environment = {
            **site.fleet.environment,
            "DARKROOM_ACCESS__KEYS_FILE": str(tmp_path / "keys.jsonl"),
            "DARKROOM_ACCESS__ALLOWED_ORIGINS": shop,
        }
        gateway = GatewayProcess(environment, tmp_path)
        try:
            url = f"{gateway.url}v1/generations"
            order = {
                "method": "POST",
                "headers": {"authorization": f"Bearer {key}", "content-type": "application/json"},
                "body": '{"prompt": "a red figure"}',
            }

            def call(**changed: Any) -> dict[str, Any]:
                answered: dict[str, Any] = opened.evaluate(CALL, {"url": url, "options": {**order, **changed}})
                return answered

            opened.goto(shop)
            made = call()
            assert (made["status"], made["location"].startswith("/v1/generations/")) == (202, True)
            refused = call(headers={"content-type": "application/json"})
            assert (refused["status"], "credential_missing" in refused["text"]) == (401, True)
            assert call(credentials="include") == {"failed": "TypeError"}, "the cookie opens nothing from elsewhere"
            opened.goto(rival)
            assert call() == {"failed": "TypeError"}
        finally:
            gateway.stop()
