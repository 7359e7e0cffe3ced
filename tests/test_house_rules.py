"""Proves the rules of the house: the core is pure, and nothing that does not render loads torch.

import-linter holds which room may import which; `make check` runs it, and a test here does, too.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "inference", "producer", "consumer", "tools")
CORE_MAY_IMPORT = {
    "__future__",
    "base64",
    "binascii",
    "collections",
    "darkroom",
    "dataclasses",
    "enum",
    "heapq",
    "itertools",
    "math",
    "struct",
    "typing",
    "zlib",
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def test_rooms_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=ROOT / ".venv" / "typing",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_imports_are_absolute() -> None:
    for package in PACKAGES:
        for path in modules(package):
            assert list(imports(path)) is not None


def test_the_core_is_pure() -> None:
    for path in modules("consumer/core"):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top in CORE_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {name}"
            if top == "darkroom":
                assert name.startswith("darkroom.consumer.core"), f"{path.relative_to(ROOT)} imports {name}"


def test_the_core_is_synchronous() -> None:
    for path in modules("consumer/core"):
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree)), path


@pytest.mark.parametrize(
    "modules_to_import",
    [
        "darkroom",
        "darkroom.producer.cli.following",
        "darkroom.producer.cli.send",
        "darkroom.producer.gateway.app",
        "darkroom.producer.client.client",
        "darkroom.consumer.cli.audit",
        "darkroom.consumer.cli.stack",
    ],
)
def test_what_does_not_render_does_not_load_torch(modules_to_import: str) -> None:
    program = f"import sys, json, {modules_to_import}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "diffusers", "transformers", "numpy", "jgo"}


def test_no_module_is_too_long_to_be_read() -> None:
    for package in PACKAGES:
        for path in modules(package):
            assert len(path.read_text().splitlines()) <= 600, path.relative_to(ROOT)


def test_the_lock_names_no_index_and_pins_every_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    entries = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert entries
    assert all("==" in line for line in entries)
    assert lock.count("--hash=sha256:") >= len(entries)


REGISTRY_HOST = re.compile(
    r"\b([a-z0-9-]+\.)*(pypi|pythonhosted|npmjs|yarnpkg|golang|maven|crates|rubygems|nuget|conda|packagist)[a-z0-9-]*"
    r"(\.[a-z0-9-]+)*\.(org|com|io|dev|net)\b|(index|registry)[-_]?url[\"']?\s*[=:]\s*[\"']?https?:",
    re.IGNORECASE,
)
"""A package registry's host by the name of what it serves, or a client's setting that names one."""


POM_NAMESPACE = "http://maven.apache.org/POM/4.0.0"
"""The name of an XML vocabulary, which nobody fetches."""


def test_no_registry_is_named() -> None:
    """Clients take the registry that their own configuration names: a mirror's address is nobody else's affair."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    if not files:
        pytest.skip("this is no checkout")
    found = []
    for file in files:
        with contextlib.suppress(UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            text = file.read_text(encoding="utf-8").replace(POM_NAMESPACE, "")
            found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in REGISTRY_HOST.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("https://example." + "pypi" + ".org/simple", True),
        ("registry." + "npmjs" + ".org", True),
        ("repo1." + "maven" + ".org", True),
        ("--index-url=" + "https://mirror.example/simple", True),
        ("--no-emit-index-url", False),
        ("python.org, kafka.apache.org", False),
    ],
)
def test_a_registry_would_be_found(text: str, is_one: bool) -> None:
    assert bool(REGISTRY_HOST.search(text)) is is_one


def test_every_direct_dependency_has_an_upper_bound() -> None:
    """A next major release may break what is imported: it is let in once it was tried."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    open_ended = [one for one in wanted if "<" not in one and "==" not in one and not one.startswith("types-")]
    assert open_ended == []
