"""Proves that README, ARCHITECTURE and docs name what exists: files, headings, settings, commands, targets, alerts."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

import darkroom
from darkroom.command_line import COMMANDS
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events import unsupported
from darkroom.schemas.events.completion import Status
from darkroom.schemas.settings import Settings, shown

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
]
WORDS_MAX = {"README.md": 1_200, "ARCHITECTURE.md": 600, "docs/explain/how-it-works.md": 750}
"""Pages that are read before anything is tried; what takes longer has a page of its own."""
GENERATED = "<!-- generated: "
"""Marks a page whose headings come from the code at each build; `make docs` checks links into it."""
HISTORY = {"CHANGELOG.md"}
"""Names things that are gone."""
NOT_SETTINGS = {"DARKROOM_POLICY", "DARKROOM_STACK_DIR"}

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SETTING = re.compile(r"(?<![A-Z_])(DARKROOM_[A-Z0-9]+)?(?:__([A-Z0-9_]+\*?))?(?![A-Z0-9_])")
"""A setting's variable; a further one of the same section may be written `__NAME`, and many as `__SASL_*`."""
_CODE = (
    re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
    re.compile(r"^ {4}\S.*$", re.MULTILINE),
    re.compile(r"`[^`\n]+`"),
)
_CALLED = r"(?:^|[`;|&=]|&& |timeout \d+ )\s*(?:[A-Z0-9_]+=\S+ )*darkroom "
_COMMAND = re.compile(_CALLED + r"([a-z][a-z-]+)", re.MULTILINE)
_CALL = re.compile(_CALLED + r"([a-z][a-z-]+(?: [^`|;&#]*)?)")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]+")
_PATH = re.compile(r"`((?:schemas|inference|producer|consumer|tests|helm|docs|examples)/[\w./-]*)`")
_TARGET = re.compile(r"(?:^|[`;])\s*make ([a-z][a-z-]+)", re.MULTILINE)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def code_of(page: Path) -> str:
    return "\n".join(found for pattern in _CODE for found in pattern.findall(page.read_text()))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, punctuation gone, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and GENERATED not in target.read_text():
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pages
def test_paths_exist(page: Path) -> None:
    if page.name in HISTORY:
        return
    for path in _PATH.findall(page.read_text()):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pages
def test_settings_exist(page: Path) -> None:
    if page.name in HISTORY:
        return
    known = {str(setting["env"]) for setting in shown(Settings()).values()}
    sections = {name.partition("__")[0] for name in known}
    section = ""
    for found in _SETTING.finditer(page.read_text()):
        section = found[1] or section
        if section in NOT_SETTINGS or not found[0]:
            continue
        name = f"{section}__{found[2]}" if found[2] else section
        if name.endswith("*"):
            assert any(one.startswith(name[:-1]) for one in known), f"{page.name} names {name}"
        else:
            assert {name, name.removesuffix("_FILE")} & (known | sections), f"{page.name} names {name}"


@pages
def test_options_of_commands_exist(page: Path) -> None:
    for line in code_of(page).splitlines():
        for called in _CALL.findall(line):
            command: click.Command = darkroom.main
            words = called.split()
            while isinstance(command, click.Group) and words:
                command = command.get_command(click.Context(command), words.pop(0)) or pytest.fail(
                    f"{page.name}: {line}"
                )
            known = {
                option for parameter in command.get_params(click.Context(command)) for option in parameter.opts
            } | {"--help"}
            assert set(_OPTION.findall(called)) <= known, f"{page.name}: {line}"


@pages
def test_commands_and_targets_exist(page: Path) -> None:
    code = code_of(page)
    assert set(_COMMAND.findall(code)) <= set(COMMANDS), page.name
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(_TARGET.findall(code)) <= targets, page.name


def test_every_alert_has_a_section_that_says_what_it_means_and_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "helm" / "darkroom" / "rules" / "darkroom.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    sections = (DOCS / "how-to" / "alerts.md").read_text().split("\n### ")[1:]
    assert {section.partition("\n")[0] for section in sections} == alerts
    for section in sections:
        assert "**Means:**" in section, section
        assert "**Do:**" in section, section


def test_the_plan_in_the_docs_is_the_published_one() -> None:
    published = (ROOT / "tests" / "bench" / "results" / "plan.md").read_text().splitlines()
    rows = [line for line in (DOCS / "how-to" / "plan.md").read_text().splitlines() if "xlarge |" in line]
    assert rows
    assert set(rows) <= set(published)


def test_errors_that_the_pages_name_exist() -> None:
    known = {name.value for kind in (ErrorCode, Status) for name in kind}
    for page in PAGES:
        if page.name in HISTORY:
            continue
        text = page.read_text()
        named = re.findall(r"(?:ends? as|fails its own request with|refused .{0,80}with) `([a-z_]+)`", text)
        assert set(named) <= known, page.name


def test_the_pages_count_the_unsupported_fields_rightly() -> None:
    document = unsupported.table()
    request = len(document["request"])
    parts = sum(len(names) for part, names in document.items() if part != "request")
    page = " ".join((DOCS / "how-to" / "records.md").read_text().split())
    assert f"{request} for the request and {parts} for its parts" in page


def test_the_names_of_other_tools_that_the_page_shows_are_refused() -> None:
    table = (DOCS / "how-to" / "records.md").read_text().partition("| field elsewhere |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    shown_names = {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}
    assert len(shown_names) > 20
    assert shown_names <= unsupported.table()["request"].keys()


@pytest.mark.parametrize("page", WORDS_MAX)
def test_pages_that_are_read_first_are_short(page: str) -> None:
    assert len((ROOT / page).read_text().split()) <= WORDS_MAX[page]
