"""Proves that the job of a caller that hangs up is cancelled, unless the caller can come back to it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.producer.gateway.house import STUDIO, House, Replica

LIMIT_S = 20


async def hung_up(
    house: House, replica: Replica, path: str, body: dict[str, Any], *, is_kafka_away: bool = False, **headers: str
) -> None:
    """Call, hang up once the job is sent, and wait until the gateway has noticed."""
    async with asyncio.timeout(LIMIT_S), replica.on_a_port() as url:
        async with httpx.AsyncClient(headers={**STUDIO, **headers}, timeout=LIMIT_S, trust_env=False) as client:
            calling = asyncio.create_task(client.post(url + path, json=body))
            while not house.kafka.sent or not replica.gateway.services.hub.watches:
                await asyncio.sleep(0.01)
            house.kafka.is_away = is_kafka_away
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        while replica.gateway.services.hub.watches:
            await asyncio.sleep(0.01)
        while any(task.get_name().startswith("cancel ") for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "a dancer"}),
        ("/v1/images/generations", {"prompt": "a dancer"}),
        ("/v1/images/generations", {"prompt": "a dancer", "stream": True}),
    ],
)
async def test_a_job_that_nobody_can_find_again_is_cancelled(
    house: House, replica: Replica, path: str, body: dict[str, Any]
) -> None:
    await hung_up(house, replica, path, body)
    assert house.kafka.cancelled == [("studio", house.kafka.sent[0].request_id)]
    assert "darkroom_gateway_abandoned_total 1.0" in (await replica.client.get("/metrics")).text


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"prompt": "a dancer", "request_id": "hello-1"}, {}),
        ({"prompt": "a dancer"}, {"Idempotency-Key": "order-7"}),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
async def test_a_job_with_an_id_of_the_caller_s_goes_on(
    house: House, replica: Replica, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    await hung_up(house, replica, path, body, **headers)
    assert house.kafka.cancelled == []


async def test_while_kafka_is_away_the_job_goes_on_and_the_gateway_too(house: House, replica: Replica) -> None:
    await hung_up(house, replica, "/generate", {"prompt": "a dancer"}, is_kafka_away=True)
    assert house.kafka.cancelled == []
    assert (await replica.client.get("/livez")).status_code == 200
