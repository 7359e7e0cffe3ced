"""Proves what callers of `/v1/generations` are promised: jobs that are safe, asked for once, and seen by their own."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest

from darkroom.producer.gateway.jobs.claims import Claim
from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import request_key
from darkroom.schemas.wire.digests import request_digest
from tests.producer.gateway.house import RIVAL, FallibleObjects, House, Replica, failure_of, png, problem, progress_of

HELLO = {"request_id": "hello-1", "prompt": "a dancer"}
JOB = "/v1/generations/hello-1"


def hello(**more: object) -> GenerationRequest:
    return GenerationRequest.model_validate({**HELLO, "tenant": "studio", **more})


async def claimed(house: House, request: GenerationRequest, *, age_s: float) -> None:
    """As a replica leaves it that dies between claim and event."""
    claim = Claim(request, request_digest(request), datetime.now(UTC) - timedelta(seconds=age_s))
    await house.objects.put(request_key(*claim.identity), claim.to_json(), "application/json")


# --- Accepting -------------------------------------------------------------------------------------------


async def test_a_job_is_claimed_and_then_sent(house: House, replica: Replica) -> None:
    answer = await replica.post(HELLO)
    assert answer.status_code == 202
    assert answer.json() == {
        "request_id": "hello-1",
        "status_url": JOB,
        "events_url": f"{JOB}/events",
        "status": "queued",
    }
    assert answer.headers["location"] == JOB
    [sent] = house.kafka.sent
    assert (sent.tenant, sent.request_id, sent.progress) == ("studio", "hello-1", "steps")
    claim = json.loads(await house.objects.get(request_key("studio", "hello-1"), bytes_max=10_000) or b"")
    assert claim["request_digest"] == request_digest(sent)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"tenant": None, "progress": None, "labels": None, "output": {"quality": None}}, {}),
        ({"steps": 7.0, "seed": 1e3}, {"steps": 7, "seed": 1000}),
        ({"deadline": "2127-01-31T12:00Z"}, {"deadline": "2127-01-31T12:00:00Z"}),
        ({"pose": {"people": [[[0.5, 0.5]] * 18], "image": None}}, {"pose": {"people": [[[0.5, 0.5]] * 18]}}),
    ],
    ids=str,
)
async def test_the_dialects_of_json_that_workers_read_are_read(
    house: House, replica: Replica, theirs: dict[str, object], ours: dict[str, object]
) -> None:
    for fields in (theirs, ours):
        assert (await replica.post({**HELLO, **fields})).status_code == 202, "the same job both times"
    [sent] = house.kafka.sent
    assert (sent.tenant, sent.progress) == ("studio", "steps")


async def test_no_envelope_brings_a_request_past_the_key_s_tenant(house: House, replica: Replica) -> None:
    inner = {**HELLO, "tenant": "rival"}
    event = {"specversion": "1.0", "type": "darkroom.generation.requested.v1", "source": "/", "id": "1", "data": inner}
    for envelope in (event, {**event, "tenant": "studio"}, {"schema": None, "payload": inner}):
        assert (await replica.post(envelope)).status_code == 422
    assert house.kafka.sent == []


async def test_nothing_is_sent_where_the_claim_cannot_be_put(house: House, replica: Replica) -> None:
    house.objects.is_away = True
    answer = await replica.post(HELLO)
    problem(answer, 503, "store_away")
    assert answer.headers["retry-after"]
    assert house.kafka.sent == []
    assert house.quotas.unfinished == set()


async def test_a_store_that_does_not_answer_is_away_in_bounded_time() -> None:
    house = House(store_timeout_s=0.1)
    house.objects.delay_s = 60.0
    async with house.gateway() as replica, asyncio.timeout(5):
        problem(await replica.post(HELLO), 503, "store_away")


async def test_a_job_that_was_claimed_while_kafka_was_away_is_sent_by_the_same_request(
    house: House, replica: Replica
) -> None:
    house.kafka.is_away = True
    problem(await replica.post(HELLO), 503, "kafka_away")
    assert house.quotas.unfinished == set(), "what was not accepted does not count"
    house.kafka.is_away = False
    assert (await replica.post(HELLO)).status_code == 202
    assert len(house.kafka.sent) == 1


async def test_the_same_request_again_is_the_same_job_and_sent_once(house: House, replica: Replica) -> None:
    for body in (HELLO, {**HELLO, "steps": 22, "priority": 9}):  # what says how to treat it is not what is asked
        assert (await replica.post(body)).status_code == 202
    assert len(house.kafka.sent) == 1


async def test_another_request_under_the_same_id_is_a_conflict(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    found = problem(await replica.post({**HELLO, "prompt": "another"}), 409, "request_id_conflict")
    assert found["request_id"] == "hello-1"
    assert len(house.kafka.sent) == 1
    assert house.quotas.unfinished == {("studio", "hello-1")}, "a conflict does not make room in the quota"


async def test_of_many_at_once_one_claims_and_all_are_accepted(house: House) -> None:
    async with house.gateway() as one, house.gateway() as other:
        answers = await asyncio.gather(*(replica.post(HELLO) for replica in (one, other) * 5))
        assert {answer.status_code for answer in answers} == {202}
        assert {sent.request_id for sent in house.kafka.sent} == {"hello-1"}


async def test_an_idempotency_key_names_the_job(house: House, replica: Replica) -> None:
    body, key = {"prompt": "a dancer"}, {"idempotency-key": "order 7"}
    problem(await replica.post(body, headers=key), 422, "invalid_request")
    key = {"idempotency-key": "order-7"}
    first, second = [(await replica.post(body, headers=key)).json()["request_id"] for _ in range(2)]
    assert first == second
    problem(await replica.post({"prompt": "another"}, headers=key), 409, "request_id_conflict")
    theirs = await replica.post({"prompt": "another"}, headers=key | RIVAL)
    assert theirs.json()["request_id"] != first, "a key is a tenant's own"
    problem(await replica.post(HELLO, headers=key), 422, "invalid_request")


async def test_without_id_or_key_every_request_is_a_new_job(house: House, replica: Replica) -> None:
    ids = {(await replica.post({"prompt": "a dancer"})).json()["request_id"] for _ in range(3)}
    assert len(ids) == len(house.kafka.sent) == 3


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({**HELLO, "colour": "red"}, 422, "invalid_request", "colour"),
        ({**HELLO, "steps": 1000}, 422, "invalid_request", "steps"),
        ({**HELLO, "request_id": "../up"}, 422, "invalid_request", "request_id"),
        ({**HELLO, "request_id": "a\r\nX-Evil: 1"}, 422, "invalid_request", "request_id"),
        ({**HELLO, "prompt": ""}, 422, "invalid_request", "prompt"),
        ({**HELLO, "prompt": "[cat|dog]", "prompt_syntax": "weighted"}, 422, "invalid_request", "alternates"),
        ({**HELLO, "sampler": "lcm", "schedule": "karras"}, 422, "invalid_request", "schedule"),
        ({**HELLO, "prompt": "\ud800"}, 422, "invalid_request", ""),
        ({**HELLO, "width": 4096, "height": 4096}, 422, "invalid_request", "width"),
        ({**HELLO, "tenant": "rival"}, 403, "tenant_forbidden", "tenant"),
        ({**HELLO, "pose": {"image": {"bucket": "darkroom", "key": "rival/x/0-a.png"}}}, 403, "pose_forbidden", "pose"),
        ({**HELLO, "pose": {"photo": {"bucket": "elsewhere", "key": "x.png"}}}, 403, "pose_forbidden", "pose"),
    ],
)
async def test_what_is_refused_is_told_why_and_leaves_nothing(
    house: House, replica: Replica, body: dict[str, object], status: int, code: str, said: str
) -> None:
    answer = await replica.client.post(
        "/v1/generations", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert said in problem(answer, status, code)["detail"]
    assert house.kafka.sent == []
    assert [key async for key in house.objects.list_keys("")] == []


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"prompt": NaN}', b'{"prompt": "a", "prompt": "b"}'])
async def test_what_is_no_json_object_is_422(replica: Replica, text: bytes) -> None:
    headers = {"content-type": "application/json"}
    problem(await replica.client.post("/v1/generations", content=text, headers=headers), 422, "invalid_request")


async def test_other_types_and_large_bodies_are_refused_unread(replica: Replica) -> None:
    answer = await replica.client.post("/v1/generations", content=b"x", headers={"content-type": "text/xml"})
    problem(answer, 415, "content_type_unknown")
    large = json.dumps({**HELLO, "prompt": "x" * 2_000_000})
    answer = await replica.client.post("/v1/generations", content=large, headers={"content-type": "application/json"})
    problem(answer, 413, "body_too_large")


async def test_the_policy_and_the_quota_come_before_the_claim(house: House, replica: Replica) -> None:
    house.policy = lambda _request: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "prompt_rejected", "No.", "Change it.")
    problem(await replica.post(HELLO), 422, "prompt_rejected")
    house.policy = lambda _request: None
    house.quotas.jobs_max = 0
    problem(await replica.post(HELLO), 429, "too_many_jobs")
    assert [key async for key in house.objects.list_keys("")] == []


async def test_an_uploaded_skeleton_is_stored_and_named_by_the_pose(house: House, replica: Replica) -> None:
    picture = png(48, 64)
    answer = await replica.client.post(
        "/v1/generations", data={"request": json.dumps(HELLO)}, files={"pose": ("../../p.png", picture, "text/html")}
    )
    assert answer.status_code == 202, answer.text
    assert await house.objects.get("studio/hello-1/pose.png", bytes_max=10_000) == picture
    assert house.kafka.sent[0].model_dump()["pose"] == {
        "image": {"bucket": "darkroom", "key": "studio/hello-1/pose.png"}
    }
    other = {"pose": ("p.png", png(64, 48))}
    answer = await replica.client.post("/v1/generations", data={"request": json.dumps(HELLO)}, files=other)
    problem(answer, 409, "request_id_conflict")
    assert await house.objects.get("studio/hello-1/pose.png", bytes_max=10_000) == picture


async def test_an_uploaded_picture_to_start_from_is_stored_beside_the_poses(house: House, replica: Replica) -> None:
    start, skeleton = png(40, 30), png(48, 64)
    answer = await replica.client.post(
        "/v1/generations",
        data={"request": json.dumps({**HELLO, "init": {"strength": 0.4}})},
        files={"init": ("start.png", start), "pose": ("pose.png", skeleton)},
    )
    assert answer.status_code == 202, answer.text
    assert await house.objects.get("studio/hello-1/init.png", bytes_max=10_000) == start
    assert await house.objects.get("studio/hello-1/pose.png", bytes_max=10_000) == skeleton
    sent = house.kafka.sent[0].model_dump()["init"]
    assert sent == {
        "image": {"bucket": "darkroom", "key": "studio/hello-1/init.png"}, "strength": 0.4, "fit": "stretch",
    }  # fmt: skip


async def test_a_mask_is_uploaded_beside_the_picture(house: House, replica: Replica) -> None:
    files = {"init": ("start.png", png(40, 30)), "mask": ("mask.png", png(40, 30))}
    answer = await replica.client.post("/v1/generations", data={"request": json.dumps(HELLO)}, files=files)
    assert answer.status_code == 202, answer.text
    assert await house.objects.get("studio/hello-1/mask.png", bytes_max=10_000) == files["mask"][1]
    sent = house.kafka.sent[0].mask
    assert sent is not None
    assert sent.model_dump()["image"] == {"bucket": "darkroom", "key": "studio/hello-1/mask.png"}
    alone = {"mask": files["mask"]}
    answer = await replica.client.post("/v1/generations", data={"prompt": "x"}, files=alone)
    assert "give the picture as init" in problem(answer, 422, "invalid_request")["detail"]


async def test_a_form_of_plain_fields_says_the_strength_beside_the_file(house: House, replica: Replica) -> None:
    fields = {"prompt": "a dancer", "request_id": "plain", "strength": ".3", "fit": "cover"}
    answer = await replica.client.post("/v1/generations", data=fields, files={"init": ("s.png", png(9, 9))})
    assert answer.status_code == 202, answer.text
    init = house.kafka.sent[0].init
    assert init is not None
    assert (init.strength, init.fit) == (0.3, "cover")


@pytest.mark.parametrize(
    ("init", "files", "status", "code"),
    [
        ({"image": {"inline": "AAAA"}}, {"init": png(9, 9)}, 422, "invalid_request"),
        ({"strength": 0}, {"init": png(9, 9)}, 422, "invalid_request"),
        ({"strength": 1}, {"init": png(9, 9)}, 422, "invalid_request"),
        ({"strength": 0.5}, {}, 422, "invalid_request"),
        ("here", {"init": png(9, 9)}, 422, "invalid_request"),
        ({}, {"init": png(90, 90)[:-20]}, 422, "pose_unreadable"),
        ({}, {"init": b"GIF89a"}, 415, "picture_format_unknown"),
        ({"image": {"bucket": "elsewhere", "key": "a.png"}}, {}, 403, "pose_forbidden"),
        ({"image": {"bucket": "darkroom", "key": "others/a.png"}}, {}, 403, "pose_forbidden"),
    ],
)
async def test_a_wrong_picture_to_start_from_is_refused(
    house: House, replica: Replica, init: Any, files: dict[str, bytes], status: int, code: str
) -> None:
    parts = {name: (f"{name}.png", content) for name, content in files.items()}
    data = {"request": json.dumps({**HELLO, "init": init})}
    answer = await replica.client.post("/v1/generations", data=data, files=parts or {"": ("", b"")})
    problem(answer, status, code)
    assert house.kafka.sent == []


# --- Repair ----------------------------------------------------------------------------------------------


async def test_a_claim_without_an_event_is_sent_when_its_request_is_repeated(house: House, replica: Replica) -> None:
    await claimed(house, hello(), age_s=0)
    assert (await replica.post(HELLO)).status_code == 202
    assert house.kafka.sent == [hello()]


async def test_a_claim_without_an_event_is_sent_when_it_is_polled(house: House, replica: Replica) -> None:
    await claimed(house, hello(), age_s=60)
    for _ in range(3):
        assert (await replica.client.get(JOB)).json()["status"] == "queued"
    assert house.kafka.sent == [hello()], "once"


async def test_a_young_claim_is_left_to_the_replica_that_made_it(house: House, replica: Replica) -> None:
    await claimed(house, hello(), age_s=1)
    await replica.client.get(JOB)
    assert house.kafka.sent == []


async def test_a_job_that_may_stand_in_the_queue_is_not_sent_again(house: House, replica: Replica) -> None:
    await claimed(house, hello(), age_s=60)
    house.kafka.sent = [hello(request_id="before"), hello()]  # by another replica
    house.kafka.committed = 1
    body = (await replica.client.get(JOB)).json()
    assert len(house.kafka.sent) == 2
    assert body["ahead"] == 1


async def test_a_finished_job_is_never_sent_again(house: House, replica: Replica) -> None:
    await claimed(house, hello(), age_s=60)
    await house.decide(hello())
    assert (await replica.post(HELLO)).json()["status"] == "succeeded"
    assert (await replica.client.get(JOB)).json()["status"] == "succeeded"
    assert house.kafka.sent == []
    assert house.quotas.unfinished == set()


# --- Looking ---------------------------------------------------------------------------------------------


async def test_a_job_is_followed_from_queued_to_its_picture(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    hub = replica.gateway.services.hub
    queued = (await replica.client.get(JOB)).json()
    assert (queued["status"], queued["ahead"], queued["eta_s"], queued["progress"]) == ("queued", 0, None, None)
    hub.on_progress(progress_of(hello(), 11, "/9j/4AAQ"))
    running = (await replica.client.get(JOB)).json()
    assert running["status"] == "running"
    assert running["progress"] == {"steps_done": 11, "steps_total": 22, "preview": "data:image/jpeg;base64,/9j/4AAQ"}
    hub.on_completion(await house.decide(hello()))
    done = (await replica.client.get(JOB)).json()
    assert (done["status"], done["progress"], done["ahead"]) == ("succeeded", None, None)
    assert done["request"]["prompt"] == "a dancer"
    picture = await replica.client.get(done["completion"]["images"][0]["url"])
    assert picture.content == png(64, 48)
    assert picture.headers["content-type"] == "image/png"
    assert "immutable" in picture.headers["cache-control"]
    again = await replica.client.get(f"{JOB}/images/0", headers={"if-none-match": picture.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    problem(await replica.client.get(f"{JOB}/images/1"), 404, "no_such_picture")


async def test_pictures_by_redirect_are_signed(house: House) -> None:
    house.settings = House(images="redirect").settings
    async with house.gateway() as replica:
        await replica.post(HELLO)
        await house.decide(hello())
        answer = await replica.client.get(f"{JOB}/images/0")
        assert answer.status_code == 307
        assert answer.headers["location"].startswith("memory://darkroom/studio/hello-1/0-")
        assert not answer.headers["location"].endswith("&method=HEAD")
        asked = await replica.client.head(f"{JOB}/images/0")
        assert asked.status_code == 307
        assert asked.headers["location"].endswith("&method=HEAD"), (
            "followed with HEAD, which a signature for GET refuses"
        )


async def test_a_completion_that_came_in_is_answered_without_the_store(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    replica.gateway.services.hub.on_completion(await house.decide(hello()))
    house.objects.is_away = True
    assert (await replica.client.get(JOB)).json()["status"] == "succeeded"


async def test_polls_of_one_job_do_not_each_cost_the_store_a_read(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    for _ in range(20):
        assert (await replica.client.get(JOB)).status_code == 200
    assert house.objects.calls["get"] == 1
    replica.gateway.services.hub.is_following = False
    await replica.client.get(JOB)
    assert house.objects.calls["get"] == 2, "nothing is believed while completions do not come in"


async def test_a_long_poll_ends_with_the_outcome(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    waiting = asyncio.create_task(replica.client.get(JOB, params={"wait": 30}))
    hub = replica.gateway.services.hub
    async with asyncio.timeout(10):
        while not hub.watches:
            await asyncio.sleep(0.01)
        hub.on_completion(await house.decide(hello()))
        assert (await waiting).json()["status"] == "succeeded"
    assert hub.watches == 0


async def test_a_long_poll_sees_what_only_the_store_knows() -> None:
    house = House(waiting_check_s=0.1, result_check_s=0.0)
    async with house.gateway() as replica:
        await replica.post(HELLO)
        waiting = asyncio.create_task(replica.client.get(JOB, params={"wait": 30}))
        async with asyncio.timeout(10):
            await house.decide(hello())  # and the completion never comes in
            assert (await waiting).json()["status"] == "succeeded"


async def test_a_long_poll_ends_when_its_time_has_passed(house: House) -> None:
    house.settings = House(wait_s_max=0.2).settings
    async with house.gateway() as replica, asyncio.timeout(10):
        await replica.post(HELLO)
        assert (await replica.client.get(JOB, params={"wait": 3600})).json()["status"] == "queued"
        problem(await replica.client.get(JOB, params={"wait": "nan"}), 422, "invalid_parameter")
        problem(await replica.client.get(JOB, params={"wait": -1}), 422, "invalid_parameter")


async def test_any_replica_answers_for_every_job(house: House) -> None:
    async with house.gateway() as one, house.gateway() as other:
        await one.post(HELLO)
        assert (await other.client.get(JOB)).json()["status"] == "queued"
        await house.decide(hello())
        other.gateway.services.hub.is_following = False
        assert (await other.client.get(JOB)).json()["status"] == "succeeded"


async def test_nobody_learns_which_ids_another_tenant_has(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    await house.decide(hello())
    for method, path in (("GET", JOB), ("GET", f"{JOB}/events"), ("GET", f"{JOB}/images/0"), ("DELETE", JOB)):
        theirs = await replica.client.request(method, path, headers=RIVAL)
        nobodys = await replica.client.request(method, path.replace("hello-1", "nothing"), headers=RIVAL)
        assert problem(theirs, 404, "no_such_job") == problem(nobodys, 404, "no_such_job")


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2Fother", "a%0d%0aX: 1", ".hidden", "a" * 200, "%00", "%F0%9F%92%A9"]
)
async def test_an_id_that_is_none_is_not_found(replica: Replica, name: str) -> None:
    answer = await replica.client.get(f"/v1/generations/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_no_key_is_401(replica: Replica) -> None:
    problem(await replica.client.get(JOB, headers={"authorization": ""}), 401, "key_unknown")


# --- Taking back -----------------------------------------------------------------------------------------


async def test_a_job_is_taken_back_until_it_has_ended(house: House, replica: Replica) -> None:
    await replica.post(HELLO)
    answer = await replica.client.delete(JOB)
    assert (answer.status_code, answer.json()) == (202, {"request_id": "hello-1", "status": "queued"})
    assert house.kafka.cancelled == [("studio", "hello-1")]
    replica.gateway.services.hub.on_completion(await house.decide(hello(), failure_of(hello(), ErrorCode.CANCELLED)))
    answer = await replica.client.delete(JOB)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert len(house.kafka.cancelled) == 1
    problem(await replica.client.get(f"{JOB}/images/0"), 409, "no_pictures")


async def test_below_a_prefix_claims_and_uploads_are_found_and_a_tenant_reads_its_own() -> None:
    house = House()
    house.objects = FallibleObjects(prefix="team/darkroom/")
    async with house.gateway() as replica:
        picture = png(48, 64)
        form = {"data": {"request": json.dumps(HELLO)}, "files": {"pose": ("p.png", picture, "image/png")}}
        assert (await replica.client.post("/v1/generations", **form)).status_code == 202  # type: ignore[arg-type]
        assert [key async for key in house.objects.list_keys("team/darkroom/")] == [
            "team/darkroom/studio/hello-1/pose.png",
            "team/darkroom/studio/hello-1/request.json",
        ]
        pose = {"image": {"bucket": "darkroom", "key": "team/darkroom/studio/hello-1/pose.png"}}
        assert house.kafka.sent[0].model_dump()["pose"] == pose
        again = {**HELLO, "request_id": "hello-2", "pose": pose}
        assert (await replica.post(again)).status_code == 202
        outside = {"image": {"bucket": "darkroom", "key": "studio/hello-1/pose.png"}}
        assert (await replica.post({**HELLO, "request_id": "hello-3", "pose": outside})).status_code == 403


async def test_beyond_the_backlog_s_limit_new_jobs_are_refused_and_accepted_ones_found() -> None:
    house = House(backlog_s_max=5.0)
    async with house.gateway() as replica:
        accepted = {"request_id": "hello-1", "prompt": "a dancer"}
        assert (await replica.post(accepted)).status_code == 202
        hub = replica.gateway.services.hub
        for number in range(3):
            request = GenerationRequest(request_id=f"job-{number}", tenant="studio", prompt="a dancer")
            hub.on_completion(await house.decide(request))
        house.kafka.sent += [house.kafka.sent[0]] * 1000  # a backlog of minutes at three completions a second
        refused = await replica.post({"request_id": "hello-2", "prompt": "a dancer"})
        problem(refused, 503, "backlog_too_long")
        assert int(refused.headers["retry-after"]) > 60
        assert (await replica.post(accepted)).status_code == 202
        house.kafka.workers = 0  # nothing wakes a fleet but what is accepted
        assert (await replica.post({"request_id": "hello-3", "prompt": "a dancer"})).status_code == 202
