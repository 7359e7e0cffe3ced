"""Proves that the documentation builds without a warning, and that its reference holds what the code has."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from darkroom.command_line import COMMANDS
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings, shown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built pages; links that lead nowhere and unknown anchors are warnings, hence errors."""
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs", str(built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return built


def code_on(page: Path) -> set[str]:
    """Return what stands as code or as a heading on a page."""
    text = page.read_text()
    found = re.findall(r"<code[^>]*>(.*?)</code>|<h[1-6]>(.*?)<a class=\"headerlink\"", text, re.DOTALL)
    return {unescape(re.sub(r"<[^>]+>", "", code or heading)) for code, heading in found}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("settings", {str(setting["env"]) for setting in shown(Settings()).values()}),
        ("errors", {code.value for code in ErrorCode}),
        ("events", set(GenerationRequest.model_fields)),
        ("metrics", {"darkroom_lag_seconds", "darkroom_requests_total", "darkroom_gateway_refused_total"}),
        ("http", {"POST /v1/generations", "POST /generate"}),
        ("commands", {f"darkroom {name}" for name in COMMANDS}),
    ],
)
def test_the_reference_has_all_there_is(site: Path, page: str, names: set[str]) -> None:
    assert names - code_on(site / "reference" / f"{page}.html") == set()


def test_no_mark_is_left_without_its_content(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert [page.name for page in pages if "generated: " in page.read_text()] == []
