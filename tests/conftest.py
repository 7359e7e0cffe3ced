"""The real Kafka and the real S3 server that tests share, and the processes that tests run in.

One embedded stack serves the whole session. The first test that asks for it starts it, in a folder of its own, and the
process that the session began in stops it at the end, even where a worker process of pytest-xdist has crashed. Set
`DARKROOM_TEST_STACK_DIR` to a folder to use the stack there; it is started if needed and left running, so that later
runs begin at once. Tests that stop or kill a server make a `Stack` of their own.

Tests run in parallel in several processes; tests/parallel.py says which share one, and which run alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests import parallel

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

SESSION_FOLDER: Final = "darkroom_session_folder"
"""Name of the workers' input that holds the folder which all processes of a session share."""
FOLDER: Final = pytest.StashKey[Path]()
FAILED: Final = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the session's folder, or take the one that the first process made."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="darkroom-tests-") if given is None else given[SESSION_FOLDER])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the folder to a worker process of pytest-xdist."""
    node.workerinput[SESSION_FOLDER] = str(node.config.stash[FOLDER])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Say which tests share a process."""
    return parallel.scheduler(config, log)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    parallel.mark(items)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run what measures or starves the machine while no other test runs. The wait is no part of the test's time."""
    with parallel.turn(item, item.config.stash[FOLDER]):
        return (yield)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[FAILED] = exitstatus != 0


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the shared stack, in the process that the session began in. The logs of a failed session are kept."""
    if hasattr(config, "workerinput"):
        return
    folder = config.stash[FOLDER]
    if (folder / "stack").exists():
        from darkroom.consumer.stack import Stack

        Stack(folder / "stack").down()
    if not config.stash.get(FAILED, True):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def session_folder(request: pytest.FixtureRequest) -> Path:
    """The folder that all processes of this session share."""
    return request.config.stash[FOLDER]


@pytest.fixture(scope="session")
def stack(session_folder: Path) -> Stack:
    """The running stack. `stack.environment` has the variables that reach it."""
    from darkroom.consumer.stack import Stack

    kept = os.environ.get("DARKROOM_TEST_STACK_DIR")
    shared = Stack(Path(kept) if kept else session_folder / "stack")
    shared.up()
    return shared


@pytest.fixture(scope="session")
def kafka_bootstrap(stack: Stack) -> str:
    """`host:port` of the stack's Kafka."""
    return stack.environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"]


@pytest.fixture(scope="session")
def s3_env(stack: Stack) -> dict[str, str]:
    """The `DARKROOM_S3__*` variables of the stack's S3 server: endpoint, keys, bucket."""
    return {name: value for name, value in stack.environment.items() if name.startswith("DARKROOM_S3__")}
