"""The commands of the chart's README, as they stand there. Pure but for reading it.

A block is what one sh fence holds. Words in capitals stand for something of the reader's and are filled in by name;
nothing else of a block is changed, so that what is proven is what is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.autoscale.helm import CHART

README: Final = CHART / "README.md"
SECTION: Final = "Operations"
PREAMBLE: Final = ""
"""The title of what stands before the first operation."""
_BLOCK: Final = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_PLACEHOLDER: Final = re.compile(r"(?<![$\w])[A-Z][A-Z_]+\b(?!=)")
"""Not $NS, and not NS in `export NS=pictures`."""
_COMMENT: Final = re.compile(r"(?m)\s+#.*$")


def operations(text: str) -> dict[str, list[str]]:
    """The blocks of each operation by its heading; those before the first under `PREAMBLE`."""
    section = re.split(r"(?m)^## ", text.split(f"\n## {SECTION}\n", 1)[1])[0]
    preamble, *parts = re.split(r"(?m)^### ", section)
    found = {PREAMBLE: _blocks(preamble)}
    for part in parts:
        title, _, body = part.partition("\n")
        found[title] = _blocks(body)
    return found


def placeholders(block: str) -> set[str]:
    """What a reader has to fill in."""
    return set(_PLACEHOLDER.findall(block))


def filled(block: str, values: Mapping[str, str]) -> str:
    """The block with its placeholders replaced. Raises `KeyError` where one has no value, or a value no placeholder."""
    if (there := placeholders(block)) != values.keys():
        raise KeyError(f"the block has {sorted(there)}, and there are values for {sorted(values)}:\n{block}")
    return _PLACEHOLDER.sub(lambda match: values[match[0]], block)


def read(path: Path = README) -> dict[str, list[str]]:
    """Those of the chart's README."""
    return operations(path.read_text())


def _blocks(markdown: str) -> list[str]:
    return [_COMMENT.sub("", block) for block in _BLOCK.findall(markdown)]
