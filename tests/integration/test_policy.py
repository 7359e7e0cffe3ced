"""Proves that a prompt which the policy rejects is not painted, whichever way it came, by the policy in force."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.audit.audit import audit
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings.policy import PolicySettings
from tests.integration.fleet import Fleet
from tests.integration.in_process import Producer, running_worker

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


def request(prompt: str) -> bytes:
    return json.dumps({"request_id": f"r-{uuid.uuid4().hex}", "prompt": prompt, "negative_prompt": "nude"}).encode()


def policy(version: str, word: str) -> str:
    return f'version = "{version}"\n[[block]]\ncategory = "sexual"\nwords = ["{word}"]\n'


async def test_a_producer_that_passes_the_gateway_by_is_refused_under_the_policy_in_force(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PolicySettings, "reload_s", 0.0)
    file = tmp_path / "policy.toml"
    file.write_text(policy("1", "nude"))
    fleet = Fleet(
        stack.environment,
        tmp_path,
        DARKROOM_TOPICS__REQUESTS_PARTITIONS="1",
        DARKROOM_POLICY__FILE=str(file),
    )
    await ensure_topics(fleet.settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=8)
    async with running_worker(fleet.settings, engine) as worker, Producer(fleet.settings) as producer:

        async def outcome(prompt: str) -> Completion:
            place = await producer.put(request(prompt))
            [completion] = (await producer.answers({place}))[place]
            assert isinstance(completion, Completion)
            return completion

        refused = await outcome("a N.U.D.E figure")
        assert refused.status.value == "failed"
        assert refused.error is not None
        assert refused.error.code is ErrorCode.PROMPT_REJECTED
        assert "sexual" in refused.error.message
        assert "version 1" in refused.error.message
        assert refused.images == ()
        assert (await outcome("a figure of stone")).status.value == "succeeded"

        file.write_text(policy("second", "figure of stone"))
        later = await outcome("a figure of stone")
        assert later.error is not None
        assert "version second" in later.error.message
        assert (await outcome("a nude figure")).status.value == "succeeded"
        count = worker.metrics.registry.get_sample_value("darkroom_policy_rejections_total", {"category": "sexual"})
        assert count == 2


CLASSIFIER = """
import io
from PIL import Image

def classify(picture):
    with Image.open(io.BytesIO(picture.content)) as opened:
        opened.load()
    return "rough" if "forbidden" in opened.info["darkroom:request"] else None
"""


async def test_a_picture_that_the_policy_rejects_is_not_stored_and_the_audit_is_clean(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"looks_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(CLASSIFIER)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "policy.toml"
    file.write_text(f'version = "1"\n[pictures]\nclassifier = "{name}:classify"\n')
    fleet = Fleet(
        stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1", DARKROOM_POLICY__FILE=str(file)
    )
    await ensure_topics(fleet.settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=8)
    async with (
        running_worker(fleet.settings, engine) as worker,
        Producer(fleet.settings) as producer,
        MinioObjects(fleet.settings.s3) as objects,
    ):
        places = [await producer.put(request(prompt)) for prompt in ("a forbidden figure", "a figure")]
        answers = await producer.answers(set(places))
        [rejected], [stored] = (answers[place] for place in places)
        assert rejected.error.code is ErrorCode.IMAGE_REJECTED
        assert [flag.category for flag in rejected.flagged] == ["rough"]
        assert (stored.status.value, stored.flagged) == ("succeeded", ())
        folder = [key async for key in objects.list_keys(f"default/{rejected.request_id}/")]
        assert [key.rpartition("/")[2] for key in folder] == ["result.json"], "no picture of it"
        labels = {"category": "rough", "verdict": "rejected"}
        assert worker.metrics.registry.get_sample_value("darkroom_pictures_flagged_total", labels) == 1
        assert (await audit(fleet.settings, objects)).is_clean
