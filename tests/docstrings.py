"""The rule of docs/contributing/style.md on how a docstring begins."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
RIDDLE: Final = re.compile(r"(What|Whether|How|Of|Whose)\b|As (the protocol|ASGI) says")
"""How a docstring must not begin: a verb and its object tell more."""

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def riddles(path: Path) -> Iterator[str]:
    """Yield the names of a module's public definitions whose docstrings begin as `RIDDLE` says."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if RIDDLE.match(ast.get_docstring(tree) or ""):
        yield f"module {path.stem}"
    yield from _within(tree, "")


def _within(node: ast.AST, prefix: str) -> Iterator[str]:
    for one in ast.iter_child_nodes(node):
        if isinstance(one, _Definition) and not one.name.startswith("_"):
            name = prefix + one.name
            if RIDDLE.match(ast.get_docstring(one) or ""):
                yield name
            if isinstance(one, ast.ClassDef):
                yield from _within(one, f"{name}.")


def found() -> set[str]:
    """Return the names in the whole product."""
    rooms = ("darkroom", "schemas", "inference", "producer", "consumer")
    return {name for room in rooms for file in (ROOT / room).rglob("*.py") for name in riddles(file)}
