"""Proves what every answer of the gateway has: errors as problems, counts by route, and the fleet's state."""

from __future__ import annotations

import structlog

from darkroom.schemas.events.request import GenerationRequest
from tests.producer.gateway.house import House, Replica, problem

HELLO = {"request_id": "hello-1", "prompt": "a dancer"}
JOB = "/v1/generations/hello-1"


def hello(**more: object) -> GenerationRequest:
    return GenerationRequest.model_validate({**HELLO, "tenant": "studio", **more})


async def test_every_error_is_a_problem(replica: Replica) -> None:
    problem(await replica.client.get("/nothing"), 404, "no_such_path")
    answer = await replica.client.put(JOB)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_what_nobody_foresaw_is_told_without_its_inside(house: House, replica: Replica) -> None:
    def broken(_request: GenerationRequest) -> None:
        raise RuntimeError("the secret inside")

    house.policy = broken
    with structlog.testing.capture_logs() as lines:
        answer = await replica.post(HELLO)
    found = problem(answer, 500, "internal_error")
    assert found["incident"] in found["remedy"]
    assert [line["incident"] for line in lines if line["log_level"] == "error"] == [found["incident"]]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_calls_are_counted_by_route(replica: Replica) -> None:
    await replica.post(HELLO)
    await replica.client.get(JOB)
    await replica.client.get("/some/path/of/nobody")
    text = (await replica.client.get("/metrics")).text
    assert 'darkroom_gateway_calls_total{method="POST",route="/v1/generations",status="202"} 1.0' in text
    assert 'route="/v1/generations/{request_id}",status="200"} 1.0' in text
    assert 'route="none",status="404"} 1.0' in text
    assert "hello-1" not in text
    assert "darkroom_gateway_accepted_total 1.0" in text


async def test_the_fleet_is_told_from_what_came_in(house: House, replica: Replica) -> None:
    assert (await replica.client.get("/v1/fleet")).json()["eta_s"] is None
    hub = replica.gateway.services.hub
    for number in range(3):
        request = hello(request_id=f"job-{number}")
        hub.on_completion(await house.decide(request))
    await replica.post(HELLO)
    fleet = (await replica.client.get("/v1/fleet")).json()
    assert fleet["lag_records"] == 1
    assert fleet["batch_rows_mean"] == 4.0
    assert fleet["queued_ms_p50"] == 40.0
    assert fleet["completions_per_minute"] > 0
    assert fleet["eta_s"] is not None


async def test_without_a_worker_nothing_is_foreseen(house: House, replica: Replica) -> None:
    hub = replica.gateway.services.hub
    for number in range(3):
        hub.on_completion(await house.decide(hello(request_id=f"job-{number}")))
    await replica.post(HELLO)
    house.kafka.workers = 1
    fleet = (await replica.client.get("/v1/fleet")).json()
    assert (fleet["workers"], fleet["last_work_s"] < 60) == (1, True)
    assert fleet["eta_s"] is not None
    assert (await replica.client.get(JOB)).json()["eta_s"] is not None
    house.kafka.workers = 0
    fleet = (await replica.client.get("/v1/fleet")).json()
    assert (fleet["workers"], fleet["eta_s"]) == (0, None)
    assert fleet["completions_per_minute"] > 0
    state = (await replica.client.get(JOB)).json()
    assert (state["ahead"], state["eta_s"]) == (0, None)
