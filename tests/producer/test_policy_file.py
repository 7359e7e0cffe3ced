"""Proves that a policy's file takes effect when it changes, that a broken one does not, and what classifiers may do."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.producer.policy.policy_file import CLASSIFIER_FAILED, PolicyFile
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.prompts.policy import Rejection
from darkroom.schemas.settings.policy import PolicySettings
from tests.constants import section_with

BLOCK = '\n[[block]]\ncategory = "sexual"\nwords = ["{}"]\n'
CLASSIFIER = """
import threading

release = threading.Event()
calls = []

def classify(prompt, negative_prompt):
    calls.append((prompt, negative_prompt))
    if prompt == "raise":
        raise LookupError(prompt)
    if prompt == "exit":
        raise SystemExit
    if prompt == "hang":
        release.wait(60)
    return {"bad": "violence", "odd": "No Name!", "number": 3}.get(prompt)
"""


def write(path: Path, version: str, word: str = "nude", head: str = "") -> None:
    """As a deployment does it: whole, by renaming."""
    fresh = path.with_suffix(".new")
    fresh.write_text(f'version = "{version}"\n{head}{BLOCK.format(word)}')
    os.replace(fresh, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    write(path, "1")
    return path


async def test_without_a_file_every_prompt_is_painted() -> None:
    assert await PolicyFile(PolicySettings()).judge("nude") is None


async def test_a_changed_file_takes_effect_and_rejections_are_counted(path: Path) -> None:
    counted: list[str] = []
    policy = PolicyFile(section_with(PolicySettings, file=path, reload_s=0), on_rejected=counted.append)
    assert await policy.judge("a nude") == Rejection("sexual", "1")
    write(path, "2", "gore")
    assert await policy.judge("a nude") is None
    assert await policy.judge("gore", "nude") == Rejection("sexual", "2")
    assert counted == ["sexual", "sexual"]


async def test_the_negative_prompt_is_not_judged_by_the_list(path: Path) -> None:
    assert await PolicyFile(PolicySettings(file=path)).judge("a dancer", "nude, blurry") is None


@pytest.mark.parametrize("broken", ['version = "2"\n[[block]', "\udcff", None, "x" * 1_100_000])
async def test_a_broken_file_leaves_the_old_policy_in_force(path: Path, broken: str | None) -> None:
    failures: list[int] = []
    policy = PolicyFile(
        section_with(PolicySettings, file=path, reload_s=0), on_reload_failed=lambda: failures.append(1)
    )
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken.encode("utf-8", "surrogateescape"))
    for _ in range(3):
        assert await policy.judge("a nude") == Rejection("sexual", "1")
    assert failures == [1], "once for a change, not for every look"
    write(path, "3")
    assert await policy.judge("a nude") == Rejection("sexual", "3")


async def test_a_file_is_looked_at_only_now_and_then(path: Path) -> None:
    policy = PolicyFile(section_with(PolicySettings, file=path, reload_s=3600))
    write(path, "2")
    assert await policy.judge("a nude") == Rejection("sexual", "1")


@pytest.mark.parametrize("content", ["version = 1", None])
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"policy\.toml"):
        PolicyFile(PolicySettings(file=path))


# --- Classifiers ----------------------------------------------------------------------------------------


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"rules_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(CLASSIFIER)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    if name in sys.modules:
        sys.modules[name].release.set()


def with_classifier(path: Path, classifier: str, on_error: str = "reject", timeout_s: float = 30.0) -> PolicyFile:
    write(path, "1", head=f'classifier = "{classifier}:classify"\non_classifier_error = "{on_error}"\n')
    return PolicyFile(
        section_with(PolicySettings, file=path, reload_s=0, classifier_timeout_s=timeout_s, classifier_threads_max=1)
    )


async def test_a_classifier_is_asked_where_the_list_has_nothing_to_say(path: Path, classifier: str) -> None:
    policy = with_classifier(path, classifier)
    assert await policy.judge("bad", "blurry") == Rejection("violence", "1")
    assert await policy.judge("good") is None
    assert await policy.judge("nude") == Rejection("sexual", "1")
    assert await policy.judge("odd") == Rejection("other", "1")
    assert await policy.judge("number") == Rejection("other", "1")
    assert sys.modules[classifier].calls == [("bad", "blurry"), ("good", None), ("odd", None), ("number", None)]


@pytest.mark.parametrize("failure", ["raise", "exit", "hang"])
@pytest.mark.parametrize("on_error", ["reject", "allow"])
async def test_a_classifier_that_fails(path: Path, classifier: str, failure: str, on_error: str) -> None:
    policy = with_classifier(path, classifier, on_error, timeout_s=0.2 if failure == "hang" else 30.0)
    expected = Rejection(CLASSIFIER_FAILED, "1") if on_error == "reject" else None
    assert await policy.judge(failure) == expected


async def test_a_classifier_that_hangs_keeps_its_thread_alone(path: Path, classifier: str) -> None:
    policy = with_classifier(path, classifier, timeout_s=0.2)
    before = threading.active_count()
    for _ in range(3):
        assert await policy.judge("hang") == Rejection(CLASSIFIER_FAILED, "1")
    assert threading.active_count() <= before + 2, "one hangs, the others wait for its place; asyncio keeps one"
    assert await policy.judge("nude") == Rejection("sexual", "1")


def test_a_classifier_that_cannot_be_imported_ends_the_start(path: Path) -> None:
    with pytest.raises(SettingsError, match="no_such_module"):
        with_classifier(path, "no_such_module")
