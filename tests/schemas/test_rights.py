"""Keeps the page of rights true, and reads what `darkroom rights` prints as the tools that it is for do."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from darkroom import main
from darkroom.schemas.rights import Resource, Role, rights_of

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "rights.md").read_text()
RESOURCES = {Resource.TOPIC: "topic", Resource.GROUP: "group", Resource.TRANSACTIONAL_ID: "transactional id"}


def rows() -> list[str]:
    """Return the page's table as it has to be, without the prefix and with the default group."""
    found = []
    for role in Role:
        by_operation: dict[str, list[str]] = {}
        for right in rights_of(role, prefix="", group_id="darkroom"):
            star = "*" if right.is_prefix else ""
            name = right.name.removeprefix("generation.") if right.resource is Resource.TOPIC else right.name
            by_operation.setdefault(f"{right.operation} {RESOURCES[right.resource]}", []).append(f"`{name}{star}`")
        cell = "; ".join(f"{operation} {', '.join(names)}" for operation, names in by_operation.items())
        found.append(f"| `{role.value}` | {cell} |")
    return found


def test_the_page_has_the_table_of_rights() -> None:
    assert [line for line in PAGE.splitlines() if line.startswith("| `")] == rows()


def test_the_page_s_commands_are_commands() -> None:
    for line in re.findall(r"^darkroom (.+)$", PAGE, re.MULTILINE):
        arguments = shlex.split(line.partition("|")[0])
        if arguments[0] == "rights":
            assert CliRunner().invoke(main, arguments).exit_code == 0, line


@pytest.mark.parametrize("role", list(Role))
def test_every_form_has_every_right(role: Role) -> None:
    rights = rights_of(role, prefix="p.", group_id="g")
    environment = {"DARKROOM_TOPICS__PREFIX": "p.", "DARKROOM_KAFKA__GROUP_ID": "g"}

    def printed(*options: str) -> str:
        done = CliRunner().invoke(main, ["rights", "--role", role.value, *options], env=environment)
        assert done.exit_code == 0
        return done.stdout

    acls = [shlex.split(line) for line in printed("--format", "kafka-acls", "--principal", "User:me").splitlines()]
    assert [
        (line[line.index("--operation") + 1], line[line.index(f"--{right.resource.value}") + 1], "prefixed" in line)
        for line, right in zip(acls, rights, strict=True)
    ] == [(right.operation, right.name, right.is_prefix) for right in rights]
    assert all(line[line.index("--allow-principal") + 1] == "User:me" for line in acls)
    user = json.loads(printed("--format", "strimzi", "--principal", "User:me"))
    assert user["metadata"]["name"] == "me"
    assert [
        (one["operations"], one["resource"]["name"], one["resource"]["patternType"])
        for one in user["spec"]["authorization"]["acls"]
    ] == [([right.operation], right.name, "prefix" if right.is_prefix else "literal") for right in rights]
    assert [one["name"] for one in json.loads(printed("--json"))] == [right.name for right in rights]
    assert all(right.name in printed() for right in rights)
