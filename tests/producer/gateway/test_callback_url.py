"""`callback_url` of a request: who may have one, what is kept of it, and what Kafka never sees."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from darkroom.producer.gateway.jobs.claims import callback_in
from darkroom.schemas.settings import HooksSettings
from tests.producer.gateway.house import RIVAL, House, Replica
from tests.producer.test_callbacks import SECRET

URL = "https://studio.example/done?token=x"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A deployment in which the studio may have callbacks."""
    file = tmp_path / "callbacks.toml"
    file.write_text(f'[tenants.studio]\nsecrets = ["{SECRET}"]\n')
    house = House()
    house.settings = house.settings.model_copy(update={"hooks": HooksSettings(file=file)})
    return house


@pytest.fixture
async def replica(house: House) -> AsyncIterator[Replica]:
    """A gateway of it."""
    async with house.gateway() as replica:
        yield replica


async def test_the_claim_keeps_it_and_the_event_does_not_have_it(house: House, replica: Replica) -> None:
    accepted = await replica.post({"request_id": "hello-1", "prompt": "a dancer", "callback_url": URL})
    assert accepted.status_code == 202, accepted.text
    claim = await house.objects.get("studio/hello-1/request.json", bytes_max=10_000)
    assert claim is not None
    assert callback_in(claim) == URL
    [request] = house.kafka.sent
    assert URL not in request.model_dump_json()
    async with house.gateway() as other:  # which has to read the claim
        again = await other.post({"request_id": "hello-1", "prompt": "a dancer", "callback_url": URL})
        assert again.status_code == 202
        differs = await other.post({"request_id": "hello-1", "prompt": "a dancer", "callback_url": URL + "y"})
        assert (differs.status_code, differs.json()["code"]) == (409, "request_id_conflict")


async def test_a_form_and_null_are_taken(house: House, replica: Replica) -> None:
    fields = {"request_id": "hello-2", "prompt": "a dancer", "callback_url": URL}
    assert (await replica.client.post("/v1/generations", data=fields)).status_code == 202
    claim = await house.objects.get("studio/hello-2/request.json", bytes_max=10_000)
    assert claim is not None
    assert callback_in(claim) == URL
    assert (await replica.post({"prompt": "a dancer", "callback_url": None})).status_code == 202


async def test_a_tenant_without_a_secret_is_told(house: House, replica: Replica) -> None:
    refused = await replica.post({"prompt": "a dancer", "callback_url": URL}, headers=RIVAL)
    assert (refused.status_code, refused.json()["code"]) == (422, "callback_unavailable")
    assert not house.kafka.sent


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "http://[::1]/", "file:///etc/passwd", 7, "", "x" * 9]
)
async def test_what_no_callback_goes_to_is_refused_at_once(house: House, replica: Replica, url: object) -> None:
    refused = await replica.post({"prompt": "a dancer", "callback_url": url})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("callback_url: ")
    assert not house.kafka.sent


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", json.dumps({"callback_url": 7}).encode()])
def test_an_object_that_is_no_claim_names_no_url(content: bytes) -> None:
    assert callback_in(content) is None
