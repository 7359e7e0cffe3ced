"""Proves `POST /generate`, the deployment guide's form: a prompt and a pose in, the picture out, or a problem."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from darkroom.producer.outcomes.completions import erased
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.events.samplers import SAMPLERS
from tests.producer.gateway.house import House, Replica, failure_of, png, problem

LIMIT_S = 20


async def answered(house: House, replica: Replica, code: ErrorCode | None = None, **call: Any) -> httpx.Response:
    """The answer to a call whose job a worker finishes."""
    calling = asyncio.create_task(replica.client.post("/generate", **call))
    async with asyncio.timeout(LIMIT_S):
        while not house.kafka.sent:
            assert not calling.done(), calling.result().text
            await asyncio.sleep(0.01)
        request = house.kafka.sent[0]
        completion = await house.decide(request, None if code is None else failure_of(request, code))
        replica.gateway.services.hub.on_completion(completion)
        return await calling


@pytest.mark.parametrize(
    "call",
    [
        {"params": {"prompt": "a dancer"}, "files": {"pose": ("p.png", png(48, 64))}},
        {"data": {"prompt": "a dancer", "steps": "22"}, "files": {"pose": ("p.png", png(48, 64))}},
        {"json": {"prompt": "a dancer"}},
        {"params": {"prompt": "a dancer"}},
    ],
)
async def test_the_picture_is_the_answer(house: House, replica: Replica, call: dict[str, Any]) -> None:
    answer = await answered(house, replica, **call)
    assert (answer.status_code, answer.content) == (200, png(64, 48))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-request-id"] == house.kafka.sent[0].request_id
    assert answer.headers["x-seed"] == "7"
    sent = house.kafka.sent[0]
    assert sent.prompt == "a dancer"
    assert (sent.pose is not None) == ("files" in call)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.POSE_UNREADABLE, 422),
        (ErrorCode.PROMPT_REJECTED, 422),
        (ErrorCode.CANCELLED, 409),
        (ErrorCode.OUT_OF_MEMORY, 502),
    ],
)
async def test_a_failure_is_a_problem_of_its_code(house: House, replica: Replica, code: ErrorCode, status: int) -> None:
    answer = await answered(house, replica, code, json={"prompt": "a dancer"})
    found = problem(answer, status, code.value)
    assert found["request_id"] == house.kafka.sent[0].request_id


async def test_every_code_has_a_status(house: House) -> None:
    from darkroom.producer.gateway.routes.waiting import failed

    request = GenerationRequest(request_id="hello-1", prompt="a dancer")
    for code in set(ErrorCode) - {ErrorCode.DEADLINE_PASSED, ErrorCode.ERASED}:
        assert failed(failure_of(request, code)).status in (409, 422, 502)
    tombstone = erased("studio", "hello-1", None, by="a test", completed_at=datetime.now(UTC))
    assert failed(tombstone).status == 409


async def test_when_the_time_has_passed_the_job_goes_on() -> None:
    house = House(generate_timeout_s=1.0)
    async with asyncio.timeout(LIMIT_S), house.gateway() as replica:
        answer = await replica.client.post("/generate", json={"prompt": "a dancer"})
        found = problem(answer, 504, "not_finished_in_time")
        assert found["request_id"] == house.kafka.sent[0].request_id
        assert (await replica.client.get(found["status_url"])).json()["status"] == "queued"


@pytest.mark.parametrize(
    "call",
    [
        {"json": {"prompt": "a dancer", "count": 2}},
        {"json": {}},
        {},
        {"files": {"picture": ("p.png", png(8, 8))}, "data": {"prompt": "a dancer"}},
        {"files": {"pose": ("p.png", b"<svg/>")}, "data": {"prompt": "a dancer"}},
        {"files": [("pose", ("p.png", png(8, 8))), ("photo", ("q.png", png(8, 8)))], "data": {"prompt": "a dancer"}},
        {"data": {"prompt": "a dancer", "colour": "red"}, "files": {"pose": ("p.png", png(8, 8))}},
    ],
)
async def test_what_makes_no_picture_is_refused(house: House, replica: Replica, call: dict[str, Any]) -> None:
    answer = await replica.client.post("/generate", **call)
    assert answer.status_code in (415, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert house.kafka.sent == []


async def test_the_form_is_documented_with_every_field_that_it_can_hold(replica: Replica) -> None:
    schemas = (await replica.client.get("/openapi.json")).json()["components"]["schemas"]
    order, form = schemas["GenerationOrder"]["properties"], schemas["PictureForm"]["properties"]
    structured = {
        name for name, schema in order.items() if "$ref" in json.dumps(schema) or "object" in schema.get("type", "")
    }
    assert form.keys() == (order.keys() - structured - {"count"}) | {"pose", "photo", "init", "mask"}
    assert schemas["PictureFields"]["properties"].keys() == form.keys() - {"pose", "photo", "init", "mask"}
    assert {"prompt", "sampler", "control_end", "deadline", "progress"} <= form.keys()
    assert form["sampler"]["enum"] == list(SAMPLERS)
