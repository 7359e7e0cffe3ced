"""Proves that both object stores, in memory and over S3, keep the protocol's promises, with the same tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import pytest

from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import BucketForbidden, Objects, ObjectTooLarge
from darkroom.producer.store.s3_objects import MinioObjects

if TYPE_CHECKING:
    from tests.producer.deployments import MakeSettings

THEIRS = "somebody-elses"


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stack)])
async def objects(request: pytest.FixtureRequest) -> AsyncIterator[Objects]:
    """A store with a bucket of its own, and another bucket that may be read and holds one object."""
    if request.param == "memory":
        memory = MemoryObjects("ours", allowed_buckets=[THEIRS])
        memory.place(THEIRS, "pose.png", b"skeleton")
        yield memory
        return
    make_settings = cast("MakeSettings", request.getfixturevalue("make_settings"))
    async with MinioObjects(make_settings(s3__bucket=THEIRS).s3) as theirs:
        await theirs.ensure_bucket(30)
        await theirs.put("pose.png", b"skeleton", "image/png")
    async with MinioObjects(make_settings(s3__allowed_buckets=(THEIRS,)).s3) as ours:
        await ours.ensure_bucket(30)
        yield ours


async def test_what_was_put_is_what_is_read(objects: Objects) -> None:
    content = bytes(range(256)) * 300
    await objects.put("studio/one/0-abc.png", content, "image/png")
    assert await objects.get("studio/one/0-abc.png", bytes_max=len(content)) == content
    stat = await objects.stat("studio/one/0-abc.png")
    assert stat is not None
    assert stat.size_bytes == len(content)


async def test_an_address_is_signed_for_one_object_of_a_bucket_that_may_be_read(objects: Objects) -> None:
    url = objects.presigned_get("studio/one/0-abc.png", valid_s=60)
    assert f"{objects.bucket}/studio/one/0-abc.png?" in url
    assert "X-Amz-Expires=60" in url
    assert f"/{THEIRS}/pose.png?" in objects.presigned_get("pose.png", bucket=THEIRS, valid_s=60)
    assert objects.presigned_head("studio/one/0-abc.png", valid_s=60) != url, "a signature holds for one method"
    for sign in (objects.presigned_get, objects.presigned_head):
        with pytest.raises(BucketForbidden):
            sign("pose.png", bucket="nobodys", valid_s=60)


async def test_a_large_object_is_put_whole(objects: Objects) -> None:
    content = b"picture" * 1_000_000  # above the 5 MiB from which the SDK would send parts
    await objects.put("large", content, "image/png")
    assert await objects.get("large", bytes_max=len(content)) == content


async def test_an_empty_object_is_an_object(objects: Objects) -> None:
    await objects.put("empty", b"", "text/plain")
    assert await objects.get("empty", bytes_max=0) == b""
    assert await objects.put_if_absent("empty", b"more", "text/plain") is False


@pytest.mark.parametrize("key", ["nothing", "a/b/c", "a/../b", "./a", " ", "\udc80"])
async def test_what_is_not_there_is_none_whatever_its_name(objects: Objects, key: str) -> None:
    assert await objects.get(key, bytes_max=10) is None
    assert await objects.stat(key) is None


async def test_a_put_replaces(objects: Objects) -> None:
    await objects.put("key", b"first", "text/plain")
    before = await objects.stat("key")
    await objects.put("key", b"second", "text/plain")
    after = await objects.stat("key")
    assert await objects.get("key", bytes_max=100) == b"second"
    assert before is not None
    assert after is not None
    assert before.etag != after.etag


async def test_an_object_that_is_too_large_is_not_read(objects: Objects) -> None:
    await objects.put("key", b"12345", "text/plain")
    with pytest.raises(ObjectTooLarge, match=r"/key has more than the 4 bytes"):
        await objects.get("key", bytes_max=4)
    assert await objects.get("key", bytes_max=5) == b"12345"


async def test_the_first_conditional_put_stands(objects: Objects) -> None:
    assert await objects.put_if_absent("result.json", b"first", "application/json") is True
    assert await objects.put_if_absent("result.json", b"second", "application/json") is False
    assert await objects.get("result.json", bytes_max=100) == b"first"


async def test_of_twenty_conditional_puts_at_once_one_wins(objects: Objects) -> None:
    for race in range(2):
        key = f"race-{race}/result.json"
        won = await asyncio.gather(
            *(objects.put_if_absent(key, f"writer {number}".encode(), "application/json") for number in range(20))
        )
        assert won.count(True) == 1
        assert await objects.get(key, bytes_max=100) == f"writer {won.index(True)}".encode()


async def test_a_deleted_object_is_gone_and_can_be_put_again(objects: Objects) -> None:
    await objects.put("key", b"content", "text/plain")
    await objects.delete("key")
    await objects.delete("key")
    assert await objects.get("key", bytes_max=100) is None
    assert await objects.put_if_absent("key", b"again", "text/plain") is True


async def test_keys_are_listed_by_prefix_and_in_order(objects: Objects) -> None:
    for key in ("b/2", "b/10", "b/sub/1", "a/1", "bb/1", "b/é"):
        await objects.put(key, b"x", "text/plain")
    assert [key async for key in objects.list_keys("b/")] == ["b/10", "b/2", "b/sub/1", "b/é"]
    assert [key async for key in objects.list_keys("nothing/")] == []


async def test_an_allowed_bucket_is_read_and_no_other(objects: Objects) -> None:
    assert await objects.get("pose.png", bucket=THEIRS, bytes_max=100) == b"skeleton"
    assert await objects.get("none.png", bucket=THEIRS, bytes_max=100) is None
    stat = await objects.stat("pose.png", bucket=THEIRS)
    assert stat is not None
    assert stat.size_bytes == 8
    with pytest.raises(BucketForbidden, match=r"another-bucket.*DARKROOM_S3__ALLOWED_BUCKETS"):
        await objects.get("pose.png", bucket="another-bucket", bytes_max=100)
    with pytest.raises(BucketForbidden):
        await objects.stat("pose.png", bucket="another-bucket")


async def test_writing_goes_to_the_own_bucket(objects: Objects) -> None:
    await objects.put("pose.png", b"ours", "image/png")
    assert await objects.get("pose.png", bucket=objects.bucket, bytes_max=100) == b"ours"
    assert await objects.get("pose.png", bucket=THEIRS, bytes_max=100) == b"skeleton"
