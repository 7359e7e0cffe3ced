"""Writes the README's pictures of the page: a real gateway, Kafka, S3 and worker, in headless Chromium.

    python -m tests.browser.screenshots

The worker has the built-in model, whose pictures these are, unless `--model-path` names another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

from darkroom.consumer import demo
from darkroom.consumer.stack import Stack
from tests.browser.site import NO_CHROMIUM, Site, browsing, chromium

DONE = (
    ("a red figure with blue trousers on a green background", "Dancing"),
    ("two white figures with black jeans on an orange background", "Two people"),
)
UNDER_WAY = (
    ("a yellow dancer with purple trousers on a blue background, watercolour", "Walking"),
    ("a pink person with grey trousers on a white background, outline", "Arms up"),
)
PHOTO = Path(demo.__file__).with_name("demo_photo.jpg")
DESKTOP: Any = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"}
PHONE: Any = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "light",
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
BYTES_MAX = 300 * 1024


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the pictures")
    parser.add_argument("--model-path", help="a model for the worker in place of the built-in one")
    given = parser.parse_args()
    executable = chromium()
    if executable is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    worker = ["--model-path", given.model_path] if given.model_path else []
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        try:
            stack.up()
            site = Site(stack.environment, Path(folder) / "site", *worker)
            try:
                with browsing(executable) as browser:
                    _desktop(browser, site.gateway.url, given.out / "page-desktop.png")
                    _phone(browser, site.gateway.url, given.out / "page-phone.png")
                    for name, device in (("desktop", DESKTOP), ("phone", PHONE)):
                        _photo(browser.new_context(**device), site.gateway.url, given.out / f"editor-photo-{name}.jpg")
            finally:
                site.stop()
        finally:
            stack.down()
    return 0


def _desktop(browser: Browser, url: str, path: Path) -> None:
    page = browser.new_context(**DESKTOP).new_page()
    page.goto(url)
    _work(page)
    _save(page, path)


def _phone(browser: Browser, url: str, path: Path) -> None:
    page = browser.new_context(**PHONE).new_page()
    page.goto(url)
    _work(page)
    page.evaluate("document.querySelector('#jobs').scrollIntoView(); scrollBy(0, -300)")
    _save(page, path)


def _photo(context: BrowserContext, url: str, path: Path) -> None:
    """The editor with the figure that was found in a photo, over the photo."""
    page = context.new_page()
    page.goto(url)
    page.set_input_files("[data-file]", PHOTO)
    page.fill("#prompt", "an astronaut in orange, watercolour")
    page.click("[type=submit]")
    expect(page.locator(".tile")).to_have_count(1)
    page.locator(".tile").get_by_title("figures found in the photo").click()
    expect(page.locator("[data-behind]")).to_be_visible()
    page.evaluate("document.querySelector('#pose').scrollIntoView()")
    _save(page, path)


def _work(page: Page) -> None:
    """Some pictures done, one request on the device, and a dance in the editor."""
    for number, (prompt, pose) in enumerate(DONE, start=1):
        _generate(page, prompt, pose, steps=22)
        expect(page.locator(".tile")).to_have_count(number)
    for prompt, pose in UNDER_WAY:
        _generate(page, prompt, pose, steps=150)
    page.click("[title='Dancing']")
    expect(page.locator(".card .state").filter(has_text="Rendering")).to_have_count(len(UNDER_WAY))
    expect(page.locator(".card-picture img").first).to_be_visible()
    page.wait_for_timeout(1500)


def _generate(page: Page, prompt: str, pose: str, *, steps: int) -> None:
    page.click(f"[title='{pose}']")
    page.fill("#prompt", prompt)
    if not page.locator("#steps").is_visible():
        page.click(".settings summary")
    page.fill("#steps", str(steps))
    page.click(".settings summary")
    page.click("[type=submit]")


def _save(page: Page, path: Path) -> None:
    page.screenshot(path=path, **({"quality": 80} if path.suffix == ".jpg" else {}))
    size = path.stat().st_size
    if size > BYTES_MAX:
        raise SystemExit(f"{path} has {size} bytes; the README's pictures have at most {BYTES_MAX}")
    print(f"{path}: {size // 1024} KiB")


if __name__ == "__main__":
    sys.exit(main())
