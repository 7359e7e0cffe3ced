"""The real Kafka and the real S3 server that tests share: one embedded stack for the whole session.

It is started when the first test asks for it, in a folder of its own, and stopped at the end whatever happened. Set
`DARKROOM_TEST_STACK_DIR` to a folder to use the stack there, started where it is not, and left running: runs after
the first then begin at once. Tests that stop or kill a server make a `Stack` of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The running stack. `stack.environment` has the variables that reach it."""
    from darkroom.consumer.stack import Stack

    kept = os.environ.get("DARKROOM_TEST_STACK_DIR")
    shared = Stack(Path(kept) if kept else tmp_path_factory.mktemp("shared-stack"))
    try:
        shared.up()
        yield shared
    finally:
        if not kept:
            shared.down()


@pytest.fixture(scope="session")
def kafka_bootstrap(stack: Stack) -> str:
    """`host:port` of the stack's Kafka."""
    return stack.environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"]


@pytest.fixture(scope="session")
def s3_env(stack: Stack) -> dict[str, str]:
    """The `DARKROOM_S3__*` variables of the stack's S3 server: endpoint, keys, bucket."""
    return {name: value for name, value in stack.environment.items() if name.startswith("DARKROOM_S3__")}
