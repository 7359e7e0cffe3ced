"""Proves that a worker looks for adapters again and again, beside its event loop, and tells once what is in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from darkroom.consumer.worker import adapter_watch
from darkroom.consumer.worker.adapter_watch import FOLDER_S, PREFIX_S, AdapterWatch
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import ModelError
from darkroom.schemas.settings import ModelSettings

LIMIT_S = 20.0


class WatchedDevice(SimulatedDevice):
    """Does at each look what the test says."""

    def __init__(self, looks: Iterator[Callable[[], bool]]) -> None:
        super().__init__(0.0)
        self._looks = looks
        self.threads: list[str] = []
        self.over = threading.Event()

    def refresh_adapters(self) -> bool:
        self.threads.append(threading.current_thread().name)
        look = next(self._looks, None)
        if look is None:
            self.over.set()
            return False
        return look()


def fails(why: str) -> Callable[[], bool]:
    def look() -> bool:
        raise ModelError(why)

    return look


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_watch, "FOLDER_S", 0.001)


def watching(device: WatchedDevice) -> AdapterWatch:
    engine = LaneEngine(device, rows_max=1)
    return AdapterWatch(engine, ModelSettings(adapters_path="/adapters"))  # type: ignore[arg-type]


async def test_what_is_in_the_way_is_told_once() -> None:
    looks = [fails("No folder."), fails("No folder."), fails("No rights."), lambda: True, lambda: False]
    device = WatchedDevice(iter(looks))
    watch = watching(device)
    with capture_logs() as logged:
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        assert device.threads == [], "no model is loaded yet"
        watch.loaded.set()
        await asyncio.wait_for(asyncio.to_thread(device.over.wait), LIMIT_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(line["event"], line.get("why")) for line in logged] == [
        ("adapters_not_listed", "No folder."),
        ("adapters_not_listed", "No rights."),
        ("adapters_listed_again", None),
    ]
    assert set(device.threads) == {"darkroom-adapters"}


async def test_another_error_ends_the_task_for_its_supervisor() -> None:
    def breaks() -> bool:
        raise ValueError("nobody expected it")

    watch = watching(WatchedDevice(iter([breaks])))
    watch.loaded.set()
    with pytest.raises(ValueError, match="nobody expected it"):
        await asyncio.wait_for(watch.run(), LIMIT_S)


async def test_a_drain_does_not_wait_for_a_fetch_and_no_two_looks_run_at_once() -> None:
    began, go_on = threading.Event(), threading.Event()

    def fetches() -> bool:
        began.set()
        return go_on.wait(LIMIT_S)

    device = WatchedDevice(iter([fetches, lambda: False]))
    watch = watching(device)
    watch.loaded.set()
    for _ in range(2):  # the second is that of a supervisor that starts it again
        task = asyncio.create_task(watch.run())
        await asyncio.to_thread(began.wait, LIMIT_S)
        task.cancel()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), LIMIT_S)
    assert len(device.threads) == 1
    task = asyncio.create_task(watch.run())
    go_on.set()
    await asyncio.wait_for(asyncio.to_thread(device.over.wait), LIMIT_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_prefix_is_listed_less_often_than_a_folder() -> None:
    """A listing costs money; both leave a file well within a minute."""
    assert 0.001 == adapter_watch.FOLDER_S < FOLDER_S < PREFIX_S <= 20
