"""Proves the rules of the house: the core is pure, and nothing that does not render loads torch.

import-linter holds which room may import which; `make check` runs it, and a test here does, too.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import docstrings

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


def test_public_docstrings_begin_with_a_verb_or_a_noun() -> None:
    new = docstrings.found() - set(docstrings.listed())
    assert new == set(), "docs/contributing/style.md says how a docstring begins"


def test_the_list_of_docstrings_to_reword_only_shrinks() -> None:
    names = docstrings.listed()
    assert names == sorted(set(names))
    assert set(names) <= docstrings.found(), "reworded: run `python -m tests.docstrings`, which takes them off the list"
