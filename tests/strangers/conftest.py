"""The S3 servers that tests of this folder run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.strangers.second_store import minio_server, moto_server

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack


class Place(NamedTuple):
    """A server, and the variables that reach it."""

    name: str
    environment: dict[str, str]


@pytest.fixture(scope="module", params=["seaweedfs", "moto", pytest.param("minio", marks=pytest.mark.proof)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The embedded server, a second one, and in `make proofs` a third."""
    if request.param == "seaweedfs":
        stack: Stack = request.getfixturevalue("stack")
        yield Place("seaweedfs", dict(stack.environment))
        return
    start = moto_server if request.param == "moto" else minio_server
    with start(tmp_path_factory.mktemp(request.param)) as environment:
        yield Place(request.param, environment)
