"""Proves that every guarantee, assumption and limit of docs/explain/guarantees.md names tests that exist."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"assumed", "guaranteed", "limit"}


def rows() -> list[list[str]]:
    page = (ROOT / "docs" / "explain" / "guarantees.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def defined_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1][:60])
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    kind, _, _, shown_by = row
    assert kind in KINDS
    names = [name.strip("` ") for name in shown_by.split(",")]
    for name in names:
        path, _, test = name.partition("::")
        assert path.startswith("tests/"), name
        assert test in defined_in(path), f"{path} has no {test}"


def test_the_table_has_every_kind_of_row() -> None:
    assert {row[0] for row in rows()} == KINDS
    assert len(rows()) > 20
