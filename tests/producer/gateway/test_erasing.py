"""Proves what `DELETE /v1/generations/{id}?erase=true` promises a tenant: gone everywhere, for good, and its own."""

from __future__ import annotations

import json

import pytest

from darkroom.producer.gateway.jobs import jobs
from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.producer.outcomes.erasing import Erasing
from darkroom.producer.outcomes.outcomes import Outcomes
from tests.producer.examples import NOON
from tests.producer.gateway.house import KEYS, RIVAL, Doorkeeper, House, Replica, png, problem, progress_of

PROMPT = "a secret dancer"
HELLO = {"request_id": "hello-1", "prompt": PROMPT}
JOB = "/v1/generations/hello-1"
ERASED = {"request_id": "hello-1", "status": "erased", "deleted": 1}


async def bytes_of(house: House) -> bytes:
    """All that is in the store."""
    return b"\n".join(
        [await house.objects.get(key, bytes_max=1 << 24) or b"" async for key in house.objects.list_keys("")]
    )


async def upload(replica: Replica) -> int:
    form = {"request": (None, json.dumps(HELLO)), "pose": ("pose.png", png(64, 64), "image/png")}
    return (await replica.client.post("/v1/generations", files=form)).status_code


async def test_an_erased_job_is_gone_wherever_one_looks_and_the_call_may_be_repeated(
    house: House, replica: Replica
) -> None:
    await replica.post(HELLO)
    replica.gateway.services.hub.on_completion(await house.decide(house.kafka.sent[0]))
    assert (await replica.client.get(f"{JOB}/images/0")).status_code == 200
    answer = await replica.client.delete(f"{JOB}?erase=true")
    assert (answer.status_code, answer.json()) == (200, ERASED)
    state = (await replica.client.get(JOB)).json()
    assert (state["status"], state["request"], state["completion"]["images"]) == ("erased", None, [])
    assert state["completion"]["worker"] == "studio-key over HTTP", "who erased it"
    problem(await replica.client.get(f"{JOB}/images/0"), 410, "erased")
    assert PROMPT.encode() not in await bytes_of(house)
    again = await replica.client.delete(f"{JOB}?erase=true")
    assert (again.status_code, again.json()) == (200, ERASED | {"deleted": 0})
    assert (await replica.client.delete(JOB)).json()["status"] == "erased", "there is nothing to cancel"


async def test_the_same_request_sent_again_is_known_as_erased_and_nothing_of_it_is_kept(
    house: House, replica: Replica
) -> None:
    assert await upload(replica) == 202
    await house.decide(house.kafka.sent[0])
    assert (await replica.client.delete(f"{JOB}?erase=true")).json()["deleted"] == 2
    async with house.gateway() as elsewhere:
        for caller in (replica, elsewhere):
            answer = await caller.post({**HELLO, "steps": 7})
            assert (answer.status_code, answer.json()["status"]) == (202, "erased")
            assert await upload(caller) == 202
    assert len(house.kafka.sent) == 1, "nothing is painted again"
    assert PROMPT.encode() not in await bytes_of(house)
    assert house.quotas.unfinished == set()
    names = [key.rpartition("/")[2] async for key in house.objects.list_keys("studio/hello-1/")]
    assert names == ["request.json", "result.json"]


async def test_a_job_under_way_is_cancelled_and_counts_no_more(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    hub = replica.gateway.services.hub
    hub.on_progress(progress_of(house.kafka.sent[0], 3, preview="AAAA"))
    assert (await replica.client.delete(f"{JOB}?erase=true")).json()["status"] == "erased"
    assert house.kafka.cancelled == [("studio", "hello-1")]
    assert house.quotas.unfinished == set()
    assert hub.progress(("studio", "hello-1")) is None, "the preview is gone"
    # A worker had decided it just before, and its completion comes late.
    late = await House().decide(house.kafka.sent[0])
    hub.on_completion(late)
    assert (await replica.client.get(JOB)).json()["status"] == "erased"


async def test_kafka_that_is_away_keeps_no_picture_from_being_erased(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    house.kafka.is_away = True
    assert (await replica.client.delete(f"{JOB}?erase=true")).status_code == 200
    assert PROMPT.encode() not in await bytes_of(house)


async def test_another_replica_notices_within_seconds(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house.gateway() as here, house.gateway() as there:
        await here.post(HELLO)
        completion = await house.decide(house.kafka.sent[0])
        there.gateway.services.hub.on_completion(completion)
        assert (await there.client.get(JOB)).json()["request"]["prompt"] == PROMPT
        await here.client.delete(f"{JOB}?erase=true")
        assert (await there.client.get(JOB)).json()["status"] == "succeeded", "asked a moment ago"
        monkeypatch.setattr(jobs, "ERASURE_UNSEEN_S", 0.0)
        house.objects.is_away = True
        assert (await there.client.get(JOB)).json()["status"] == "succeeded", "what it knows, while the store is away"
        house.objects.is_away = False
        state = (await there.client.get(JOB)).json()
        assert (state["status"], state["request"]) == ("erased", None)


async def test_nobody_erases_another_tenant_s_job_or_one_without_the_scope(
    house: House, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.post(HELLO)
    await house.decide(house.kafka.sent[0])
    problem(await replica.client.delete(f"{JOB}?erase=true", headers=RIVAL), 404, "no_such_job")
    problem(await replica.client.delete("/v1/generations/never?erase=true"), 404, "no_such_job")
    asked: list[Scope] = []

    async def identify(self: Doorkeeper, connection: object, scope: Scope) -> Principal:
        asked.append(scope)
        return Principal(KEYS["studio-key"], "studio-key", frozenset(Scope))

    monkeypatch.setattr(Doorkeeper, "identify", identify)
    await replica.client.delete(JOB)
    await replica.client.delete(f"{JOB}?erase=true")
    assert asked == [Scope.CANCEL, Scope.ERASE]


async def test_a_command_that_erased_a_job_is_noticed_and_its_claim_does_not_come_back(
    house: House, replica: Replica
) -> None:
    await replica.post(HELLO)
    await Erasing(house.objects).erase("studio", "hello-1", by="darkroom erase", now=NOON)
    assert (await replica.post(HELLO)).status_code == 202
    async with house.gateway() as fresh:
        assert (await fresh.post(HELLO)).json()["status"] == "erased"
        assert (await fresh.client.get(JOB)).json()["request"] is None
    found = await Outcomes(house.objects).find("studio", "hello-1")
    assert found is not None
    assert PROMPT.encode() not in await bytes_of(house)


async def test_what_is_not_darkroom_s_is_refused_in_a_sentence(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    replica.gateway.services.hub.on_completion(await house.decide(house.kafka.sent[0]))
    await house.objects.put("studio/hello-1/result.json", b"theirs", "text/plain")
    problem(await replica.client.delete(f"{JOB}?erase=true"), 409, "not_erased")
    assert len([key async for key in house.objects.list_keys("studio/hello-1/")]) == 3
