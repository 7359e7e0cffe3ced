"""Proves the whole language through real workers: 200 requests that mix all of it, and a kill in the middle.

Samplers, schedules, guidance windows, weighted and long prompts, adapters, recipes and poses share batches. A worker is
killed with SIGKILL half-way and its companion takes over. Every request succeeds once, what is stored is what its
request alone paints, and the same records sent again are answered with the same pictures to the last bit.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from PIL import Image

from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion, Status
from tests.integration.fleet import Fleet, WorkerProcess, until
from tests.integration.in_process import Producer

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.render]

REQUESTS: Final = 200
KILLED_AT: Final = 40
"""Requests that the killed worker has rendered by then."""
COMPARED: Final = 30
"""Requests whose stored pictures are held against their request painted alone."""
LIMIT_S: Final = 120.0

Place = tuple[int, int]
"""A record's partition and offset."""


async def test_all_of_it_mixed_survives_a_kill(stack: Stack, tmp_path: Path) -> None:
    from darkroom.inference.sdxl import ModelFiles, SdxlDevice
    from darkroom.inference.tiny import ensure_tiny_model
    from tests.inference import language

    tiny = ensure_tiny_model()
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    language.write_adapters(adapters, tiny)
    (tmp_path / "recipes.toml").write_text(language.RECIPES)
    fleet = Fleet(
        stack.environment,
        tmp_path,
        DARKROOM_TOPICS__REQUESTS_PARTITIONS="3",
        DARKROOM_DEVICE="cpu",
        DARKROOM_MODEL__PATH=str(tiny.path),
        DARKROOM_MODEL__CONTROLNET_PATH=str(tiny.controlnet_path),
        DARKROOM_MODEL__ADAPTERS_PATH=str(adapters),
        DARKROOM_MODEL__RECIPES_FILE=str(tmp_path / "recipes.toml"),
    )
    drawn = language.until_each(random.Random(18), REQUESTS, lambda one: one.get("sampler"))
    asked = {f"{fleet.serial}-{number}": fields for number, fields in enumerate(drawn)}
    await fleet.make_topics()
    try:
        async with Producer(fleet.settings) as producer:
            first = await _killed_in_the_middle(fleet, producer, asked)
            again = await _answers(producer, await _sent(producer, asked))
    finally:
        fleet.stop()
    assert {one.status for one in first.values()} == {Status.SUCCEEDED}
    assert not any(one.replayed for one in first.values())
    assert max(one.batch.rows_max for one in first.values() if one.batch) > 4, "the requests shared steps"
    assert all(one.replayed for one in again.values())
    assert {name: one.images for name, one in again.items()} == {name: one.images for name, one in first.items()}
    assert {name: one.prompt for name, one in again.items()} == {name: one.prompt for name, one in first.items()}
    lengths = {one.prompt.chunks for one in first.values() if one.prompt}
    assert lengths == {1, 2, 3, 4}, "prompts of all lengths shared steps"
    for name, fields in asked.items():
        said = " ".join(first[name].warnings)
        assert ("clamped to 0 to 2; one was 7" in said) == _has(fields, "(fox:7)")
        assert ("not closed" in said) == _has(fields, ":) (snow")
        assert ("The prompt was cut at" in said) == (fields["prompt"] in language.TOO_LONG)
    report = await fleet.audit()
    assert (report.records, report.succeeded, report.replayed) == (2 * REQUESTS, 2 * REQUESTS, REQUESTS)
    assert report.is_clean, report

    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=adapters)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    compared = list(asked.items())[:COMPARED]
    apart = {
        request_id: await _distance(fleet, device, {"request_id": request_id, **fields}, first[request_id])
        for request_id, fields in compared
    }
    device.close()
    assert {request_id: far for request_id, far in apart.items() if far > 1} == {}
    painted = [asked[one.request_id].get("sampler") for one in first.values()]
    assert set(painted) >= set(language.SAMPLERS)


async def _killed_in_the_middle(
    fleet: Fleet, producer: Producer, asked: Mapping[str, Mapping[str, Any]]
) -> dict[str, Completion]:
    """Send the requests to two workers, kill one, and return what was answered."""
    killed, left = fleet.start(), fleet.start()
    await until(lambda: killed.is_ready() and left.is_ready(), LIMIT_S, "the workers to be ready")
    places = await _sent(producer, asked)
    await until(lambda: len(_rendered(killed)) >= KILLED_AT, LIMIT_S, f"{KILLED_AT} pictures")
    killed.kill()
    done = len(_rendered(killed) | _rendered(left))
    assert done < REQUESTS - KILLED_AT, "the kill came too late"
    answers = await _answers(producer, places)
    assert len(_rendered(left)) >= REQUESTS - done
    return answers


def _has(fields: Mapping[str, Any], mark: str) -> bool:
    """Return true if a text of the request that is encoded has the mark and is read as weighted."""
    is_guided = fields.get("guidance_scale", 0.0 if fields.get("recipe") == "four-steps" else 5.0) > 1
    texts = [fields["prompt"], fields["negative_prompt"] if is_guided else None]
    return fields["prompt_syntax"] == "weighted" and any(mark in text for text in texts if text)


def _rendered(worker: WorkerProcess) -> set[str]:
    return {entry["request_id"] for entry in worker.events("rendered")}


async def _sent(producer: Producer, asked: Mapping[str, Mapping[str, Any]]) -> set[Place]:
    return {
        await producer.put(json.dumps({"request_id": name, **fields}).encode(), key=name.encode())
        for name, fields in asked.items()
    }


async def _answers(producer: Producer, places: set[Place]) -> dict[str, Completion]:
    """Return by request id the one answer that each of the records has."""
    answers = await producer.answers(places, limit_s=LIMIT_S)
    assert all(len(answers[place]) == 1 for place in places)
    return {answers[place][0].request_id: answers[place][0] for place in places}


async def _distance(fleet: Fleet, device: Any, fields: Mapping[str, Any], completion: Completion) -> int:
    """Return how far, of 255, the stored pictures are from those of the request painted alone."""
    from tests.inference import language
    from tests.inference.painting import distance, paint

    alone = [paint(device, one) for one in language.resolved(fields, device.info)]
    stored = await _stored(fleet, completion)
    if fields.get("output", {}).get("format", "png") != "png":
        return 0  # a file that loses something says nothing about single values
    return max(distance(*pair) for pair in zip(stored, alone, strict=True))


async def _stored(fleet: Fleet, completion: Completion) -> Sequence[Any]:
    pictures = []
    async with MinioObjects(fleet.settings.s3) as objects:
        for ref in completion.images:
            content = await objects.get(ref.key, bucket=ref.bucket, bytes_max=1 << 24)
            assert content is not None
            with Image.open(io.BytesIO(content)) as picture:
                pictures.append(np.asarray(picture.convert("RGB"), dtype=np.int16))
    return pictures
