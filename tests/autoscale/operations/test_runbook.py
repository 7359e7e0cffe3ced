"""Proves that the chart's README and what runs it belong together: every operation, every block, every placeholder."""

from __future__ import annotations

import re

import pytest

from tests.autoscale.helm import CHART
from tests.autoscale.operations import runbook
from tests.autoscale.operations.__main__ import OPERATIONS
from tests.autoscale.operations.runbook import PREAMBLE, filled, placeholders

FILLED_IN = {
    PREAMBLE: [{"ENDPOINT", "ACCESS_KEY", "SECRET_KEY"}],
    "Upgrade a model with no gap": [set(), set()],
    "Rotate keys": [set(), {"OLD_ID"}, {"NEW_KEY", "NEW_SECRET"}],
    "Drain a node": [{"NODE"}],
    "Replay dead letters": [{"ID"}, {"ID"}],
    "Grow partitions": [set()],
    "Back up configuration": [set()],
    "Clear old pictures": [{"TENANT"}],
    "Disaster recovery": [set(), set(), set(), set()],
}
"""What the proof gives for each block, in the README's order: a block more, or a word more, is one that nobody ran."""


def test_every_operation_of_the_readme_is_run_and_every_block_of_it() -> None:
    found = runbook.read()
    assert found.keys() - {PREAMBLE} == OPERATIONS.keys()
    assert {title: [placeholders(block) for block in blocks] for title, blocks in found.items()} == FILLED_IN


def test_the_operations_use_names_that_the_chart_has() -> None:
    text = "".join(block for blocks in runbook.read().values() for block in blocks)
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir() if file.is_file())
    for suffix in re.findall(r"\$R(-[a-z]+)", text):
        assert suffix in {"-worker", "-gateway"} or f"}}}}{suffix}" in templates, suffix


def test_a_block_is_filled_in_as_a_reader_does_it() -> None:
    block = "export NS=pictures\nkubectl -n $NS drain NODE --key=NEW_KEY store/TENANT/ \\\n"
    assert placeholders(block) == {"NODE", "NEW_KEY", "TENANT"}
    values = {"NODE": "n-1", "NEW_KEY": r"a\1b", "TENANT": "studio"}
    assert filled(block, values) == "export NS=pictures\nkubectl -n $NS drain n-1 --key=a\\1b store/studio/ \\\n"
    for wrong in ({"NODE": "n-1"}, values | {"ID": "x"}):
        with pytest.raises(KeyError, match="there are values for"):
            filled(block, wrong)
