"""Proves that the core hears the engine's cap with each prepared job, and that idle steps wake nobody."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from darkroom.consumer.core import events as on
from darkroom.consumer.worker.payload import Payload, Received
from darkroom.consumer.worker.ports import Record
from darkroom.consumer.worker.rendering import QUIET_S, Rendering
from darkroom.inference.contract import Listener
from darkroom.inference.engine import LaneEngine
from darkroom.inference.planning.calibration import Calibration
from darkroom.inference.planning.profile_store import ProfileStore
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import BatchKey, EngineEvent, RowId, StepDone
from darkroom.schemas.events.request import GenerationRequest
from tests.consumer.core.builders import key
from tests.inference.scripted import WAIT_S, job


async def test_the_core_hears_the_measured_cap(tmp_path: Path) -> None:
    flat = {1: 10.0, 8: 80.0}
    engine = LaneEngine(
        SimulatedDevice(curve=flat), rows_max=8, calibration=Calibration(ProfileStore(tmp_path), 1.0, 8)
    )
    heard: asyncio.Queue[on.Event] = asyncio.Queue()
    rendering = Rendering(engine, heard.put_nowait, lambda reason: None, asyncio.get_running_loop().time)
    await rendering.start()
    try:
        received = Received(
            record=Record(offset=0, key=None, value=b"", headers=(), timestamp_ms=0),
            event_id="event",
            request_digest="digest",
            requested_at=datetime.now(UTC),
            request=GenerationRequest(request_id="r", prompt="a figure"),
            render=job("r").request,
        )
        rendering.prepare(key(0), Payload(received))
        cap, prepared = [await asyncio.wait_for(heard.get(), WAIT_S) for _ in range(2)]
        assert isinstance(prepared, on.Prepared)
        assert prepared.job == key(0)
        assert cap == on.CapKnown(prepared.batch_key, 1, 1)
        rendering.prepare(key(1), Payload(received))
        assert isinstance(await asyncio.wait_for(heard.get(), WAIT_S), on.Prepared), "a cap is said once"
    finally:
        await rendering.close()


def step(*, seconds: float, retired: tuple[RowId, ...] = ()) -> StepDone:
    return StepDone(BatchKey(8, 8, "euler_ancestral"), (RowId("r", 0),), retired, seconds, joined=0)


async def test_steps_from_which_nothing_follows_wait_for_one_from_which_something_does() -> None:
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=8)
    seen: list[EngineEvent] = []
    rendering = Rendering(engine, lambda event: None, lambda reason: None, asyncio.get_running_loop().time)
    rendering.observers.append(seen.append)
    listened: list[Listener] = []
    engine.start = listened.append  # type: ignore[method-assign]  # the lanes' place is taken by this test
    await rendering.start()
    [listen] = listened

    async def told(*events: EngineEvent) -> int:
        for event in events:
            listen(event)
        await asyncio.sleep(0)
        return len(seen)

    try:
        assert await told(*[step(seconds=QUIET_S / 4)] * 3) == 0
        assert await told(step(seconds=0.0, retired=(RowId("r", 0),))) == 4, "in their order, and at once"
        assert await told(step(seconds=QUIET_S * 0.9)) == 4
        assert await told(step(seconds=QUIET_S * 0.2)) == 6, "metrics are no older than that"
    finally:
        await rendering.close()
