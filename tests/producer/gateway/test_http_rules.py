"""What HTTP offers beside the calls: parts of pictures, preferences, compressed text, slashes at the end."""

from __future__ import annotations

import asyncio

import pytest

from tests.producer.gateway.house import House, Replica

PICTURE = "/v1/generations/hello-1/images/0"


async def picture_of(house: House, replica: Replica) -> bytes:
    """Render a job and return its picture."""
    await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
    replica.gateway.services.hub.on_completion(await house.decide(house.kafka.sent[0]))
    whole = await replica.client.get(PICTURE)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    return whole.content


async def test_a_part_of_a_picture_is_given(house: House, replica: Replica) -> None:
    content = await picture_of(house, replica)
    size = len(content)
    for asked, part, told in (
        ("bytes=0-9", content[:10], f"bytes 0-9/{size}"),
        ("bytes=10-", content[10:], f"bytes 10-{size - 1}/{size}"),
        ("bytes=-7", content[-7:], f"bytes {size - 7}-{size - 1}/{size}"),
        (f"bytes=5-{size + 100}", content[5:], f"bytes 5-{size - 1}/{size}"),
        (f"bytes=-{size + 100}", content, f"bytes 0-{size - 1}/{size}"),
    ):
        found = await replica.client.get(PICTURE, headers={"range": asked})
        assert (found.status_code, found.content, found.headers["content-range"]) == (206, part, told)
        assert found.headers["content-type"] == "image/png"


@pytest.mark.parametrize("asked", ["bytes=9-1", "bytes=0-1,4-5", "pages=1-2", "bytes=-", "bytes=x-", "0-9"])
async def test_what_is_no_single_range_is_answered_with_all_of_it(house: House, replica: Replica, asked: str) -> None:
    content = await picture_of(house, replica)
    found = await replica.client.get(PICTURE, headers={"range": asked})
    assert (found.status_code, found.content) == (200, content)


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=999999-9999999", "bytes=-0"])
async def test_a_range_beyond_the_end_is_told_the_size(house: House, replica: Replica, asked: str) -> None:
    content = await picture_of(house, replica)
    found = await replica.client.get(PICTURE, headers={"range": asked})
    assert (found.status_code, found.headers["content-range"]) == (416, f"bytes */{len(content)}")


async def test_a_part_of_another_picture_is_not_given(house: House, replica: Replica) -> None:
    content = await picture_of(house, replica)
    same = (await replica.client.get(PICTURE)).headers["etag"]
    found = await replica.client.get(PICTURE, headers={"range": "bytes=0-9", "if-range": same})
    assert found.status_code == 206
    other = await replica.client.get(PICTURE, headers={"range": "bytes=0-9", "if-range": '"another"'})
    assert (other.status_code, other.content) == (200, content)


async def test_a_preference_to_wait_is_applied_and_told(house: House, replica: Replica) -> None:
    await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
    path = "/v1/generations/hello-1"
    waiting = asyncio.ensure_future(replica.client.get(path, headers={"prefer": "respond-async, wait=30"}))
    while not replica.gateway.services.hub.watches:
        await asyncio.sleep(0.01)
    replica.gateway.services.hub.on_completion(await house.decide(house.kafka.sent[0]))
    answer = await waiting
    assert (answer.json()["status"], answer.headers["preference-applied"]) == ("succeeded", "wait=30")
    for prefer in ("wait=x", "wait", "await=3", ""):
        assert "preference-applied" not in (await replica.client.get(path, headers={"prefer": prefer})).headers
    both = await replica.client.get(path, params={"wait": 0}, headers={"prefer": "wait=30"})
    assert "preference-applied" not in both.headers, "what the query says comes first"


async def test_text_is_compressed_for_those_who_take_it_and_pictures_are_not(house: House, replica: Replica) -> None:
    await picture_of(house, replica)
    document = await replica.client.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert document.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in document.headers["vary"].lower()
    assert document.json()["openapi"]
    plain = await replica.client.get("/openapi.json", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert int(document.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    picture = await replica.client.get(PICTURE, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in picture.headers
    events = await replica.client.get("/v1/generations/hello-1/events", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in events.headers


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/docs.js", "/openapi.json"])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_head_tells_what_get_sends_in_either_coding(replica: Replica, path: str, coding: str) -> None:
    head = await replica.client.head(path, headers={"accept-encoding": coding})
    get = await replica.client.get(path, headers={"accept-encoding": coding})
    unlike = {"x-request-id", "date"}
    assert {name: text for name, text in head.headers.items() if name not in unlike} == {
        name: text for name, text in get.headers.items() if name not in unlike
    }
    assert ("content-encoding" in get.headers) is (coding == "gzip")
    known = await replica.client.get(path, headers={"if-none-match": get.headers.get("etag", "")})
    assert known.status_code == (304 if "etag" in get.headers else 200)


async def test_a_slash_at_the_end_changes_nothing(house: House, replica: Replica) -> None:
    answer = await replica.client.post("/v1/generations/", json={"request_id": "hello-1", "prompt": "a dancer"})
    assert answer.status_code == 202
    for path in ("/v1/generations/", "/v1/generations/hello-1/", "/v1/fleet/"):
        assert (await replica.client.get(path)).status_code == 200
    assert (await replica.client.get("/v1/generations//")).status_code == 404
    assert (await replica.client.delete("/v1/generations/hello-1/")).status_code == 202
