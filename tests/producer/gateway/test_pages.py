"""Proves that the page's files are sent as what they are, once, and that nothing else of the machine is."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from darkroom.producer.gateway.routes.site import FOLDER
from tests.producer.gateway.house import Replica, problem


async def test_the_api_s_page_needs_no_other_host(replica: Replica) -> None:
    page = await replica.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert "page/docs.js" in named
    for path in named:
        assert (await replica.client.get(urljoin(str(page.url), path))).status_code == 200, path
    assert not re.search(r"<script>|<style|\son[a-z]+=|https?://", page.text), "a strict CSP has to hold"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.*")), ids=lambda path: path.name)
def test_every_address_of_the_page_is_relative(path: Path) -> None:
    """A proxy may put any prefix before the gateway's paths: an address from the root misses it."""
    text = path.read_text()
    in_markup = r'(?:href|src|action|poster|srcset|content)\s*=\s*["\']?\s*/[a-z]?'
    in_script = r'(?:["\'`])/(?:[a-z]|\$\{)[^"\'`]*["\'`]|location\.(?:origin|host)|["\']/["\']\s*\+'
    in_style = r'url\(\s*["\']?/|@import\s+["\']/'
    found = re.findall("|".join((in_markup, in_script, in_style)), text)
    assert found == []


@pytest.mark.parametrize(
    "text", ['fetch("/x")', "`/v1/${id}`", '<a href="/">', "<img src=/a.png>", "url(/a.png)", "location.origin"]
)
def test_that_proof_sees_an_address_from_the_root(text: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.js"
    wrong.write_text(text)
    with pytest.raises(AssertionError):
        test_every_address_of_the_page_is_relative(wrong)


async def test_a_file_is_sent_once(replica: Replica) -> None:
    first = await replica.client.get("/page/docs.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.content == (FOLDER / "docs.js").read_bytes()
    again = await replica.client.get("/page/docs.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "../app.py", "..%2fapp.py", ".hidden", "%00"])
async def test_nothing_else_is_sent(replica: Replica, name: str) -> None:
    problem(await replica.client.get(f"/page/{name}"), 404, "no_such_path")


async def test_probes_answer(replica: Replica) -> None:
    for path in ("/livez", "/readyz"):
        assert (await replica.client.get(path)).json() == {"well": True, "reasons": []}
    replica.gateway.close()
    assert (await replica.client.get("/readyz")).status_code == 503
    assert (await replica.client.get("/livez")).status_code == 200
