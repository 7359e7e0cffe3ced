"""Proves that an erasure is complete wherever it was interrupted, lasts, and touches nothing that is not Darkroom's."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.dead_letters import Original, Reason, dead_letter
from darkroom.producer.outcomes.erasing import Erasing, NotErased
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import Objects, StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.names import image_key, request_key, upload_key
from tests.producer.examples import NOON, Picture, answered, source, success, work

if TYPE_CHECKING:
    from tests.producer.deployments import MakeSettings

PROMPT = "a secret dancer"
IDENTITY = ("studio", "hello-1")
FOLDER = "team/studio/hello-1/"
LATER = NOON + timedelta(hours=1)
THEIRS = {
    "team/studio/hello-1/invoice.pdf": b"of another program",
    "team/studio/hello-1/0-notes.txt": b"theirs as well",
    "team/studio/hello-10/0-0123456789abcdef.png": b"another request's",
    "team/rival/hello-1/result.json": b"another tenant's",
}


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stack)])
async def objects(request: pytest.FixtureRequest) -> AsyncIterator[Objects]:
    """A store below a prefix of a bucket."""
    if request.param == "memory":
        yield MemoryObjects("ours", prefix="team/")
        return
    make_settings = cast("MakeSettings", request.getfixturevalue("make_settings"))
    async with MinioObjects(make_settings(s3__prefix="team/").s3) as ours:
        await ours.ensure_bucket(30)
        yield ours


class Killed(Exception):  # noqa: N818 - stands for the end of a process
    """The process died."""


class Dying:
    """A store whose client is killed before its call number `lives` that changes something."""

    def __init__(self, objects: Objects, lives: int) -> None:
        self._objects = objects
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._objects, name)
        if name not in ("put", "put_if_absent", "delete"):
            return method

        async def call(*arguments: Any) -> Any:
            if self._lives == 0:
                raise Killed
            self._lives -= 1
            return await method(*arguments)

        return call


def claim(request_id: str = "hello-1") -> bytes:
    request = {"request_id": request_id, "tenant": "studio", "prompt": PROMPT}
    return json.dumps({"request": request, "request_digest": "sha256:0", "accepted_at": NOON.isoformat()}).encode()


async def painted(objects: Objects, request_id: str = "hello-1") -> Completion:
    """As gateway and worker leave a request: claim, upload, two pictures with its prompt inside, an outcome."""
    await objects.put(upload_key("pose", "studio", request_id, "png", prefix="team/"), b"uploaded", "image/png")
    await objects.put(request_key("studio", request_id, prefix="team/"), claim(request_id), "application/json")
    pictures = [Picture(f"{PROMPT} {number}".encode()) for number in range(2)]
    refs = completions.image_refs(
        pictures, bucket=objects.bucket, prefix="team/", tenant="studio", request_id=request_id
    )
    about = answered(request_id=request_id, labels={"about": PROMPT}, warnings=(f"{PROMPT} was cut",))
    return await Outcomes(objects).decide(completions.succeeded(about, refs, work(), completed_at=NOON), pictures)


async def keys(objects: Objects, prefix: str = "team/") -> list[str]:
    return [key async for key in objects.list_keys(prefix)]


async def everything(objects: Objects) -> bytes:
    """All bytes in the store."""
    return b"\n".join([await objects.get(key, bytes_max=1 << 20) or b"" for key in await keys(objects)])


async def erase(objects: Objects, request_id: str = "hello-1") -> Any:
    return await Erasing(objects).erase("studio", request_id, by="a test", now=LATER)


async def test_pictures_uploads_and_texts_go_and_two_tombstones_stay(objects: Objects) -> None:
    first = await painted(objects)
    for key, content in THEIRS.items():
        await objects.put(key, content, "text/plain")
    erased = await erase(objects)
    assert (erased.was, erased.deleted) == (Status.SUCCEEDED, 3)
    assert sorted(erased.left) == sorted(key for key in THEIRS if key.startswith(FOLDER))
    assert PROMPT.encode() not in await everything(objects)
    assert {key: await objects.get(key, bytes_max=100) for key in THEIRS} == THEIRS
    assert set(await keys(objects, FOLDER)) - set(THEIRS) == {f"{FOLDER}request.json", f"{FOLDER}result.json"}
    tombstone = await Outcomes(objects).find(*IDENTITY)
    assert tombstone is not None
    assert (tombstone.status, tombstone.source, tombstone.completed_at) == (Status.ERASED, first.source, LATER)
    again = await erase(objects)
    assert (again.was, again.deleted, again.tombstone) == (Status.ERASED, 0, tombstone)


async def test_an_erasure_that_was_killed_between_any_two_calls_is_finished_by_the_next(objects: Objects) -> None:
    for lives in itertools.count():
        name = f"r-{lives}"
        await painted(objects, name)
        try:
            await erase(cast("Objects", Dying(objects, lives)), name)
        except Killed:
            erased = await erase(objects, name)
            assert erased.was is (Status.ERASED if lives > 0 else Status.SUCCEEDED)
        else:
            break
        assert await keys(objects, f"team/studio/{name}/") == [
            f"team/studio/{name}/request.json",
            f"team/studio/{name}/result.json",
        ]
        assert await Erasing(objects).leftovers("studio", name) == 0
    assert lives >= 5, "two tombstones, two pictures and an upload"


async def test_a_worker_that_was_painting_finds_the_tombstone_and_its_pictures_go(objects: Objects) -> None:
    assert (await erase(objects)).was is None
    standing = await painted(objects)
    assert standing.status is Status.ERASED
    assert await Erasing(objects).leftovers(*IDENTITY) == 3
    assert await Erasing(objects).sweep(*IDENTITY) == 3
    assert await Erasing(objects).leftovers(*IDENTITY) == 0


async def test_an_erasure_and_the_decision_at_one_time_end_as_erased(objects: Objects) -> None:
    for number in range(8):
        name = f"race-{number}"
        standing, erased = await asyncio.gather(painted(objects, name), erase(objects, name), return_exceptions=True)
        if isinstance(erased, NotErased):  # it came between the upload and the claim
            erased = await erase(objects, name)
        found = await Outcomes(objects).find("studio", name)
        assert found is not None
        assert found.status is Status.ERASED
        assert isinstance(standing, Completion)


async def test_what_another_program_put_there_is_left_and_said(objects: Objects) -> None:
    for name in ("result.json", "request.json", "pose.png", "0-0123456789abcdef.png"):
        key = f"{FOLDER}{name}"
        await objects.put(key, b'{"theirs": 1}', "application/json")
        with pytest.raises(NotErased, match=r"left as it is|restore it"):
            await erase(objects)
        assert await keys(objects, FOLDER) == [key]
        assert [one async for one in Erasing(objects).requests_of("studio")] == [("hello-1", False)]
        await objects.delete(key)


async def test_a_claim_that_is_not_ours_is_not_overwritten(objects: Objects) -> None:
    await painted(objects)
    await objects.put(f"{FOLDER}request.json", b"theirs", "text/plain")
    await erase(objects)
    assert await objects.get(f"{FOLDER}request.json", bytes_max=100) == b"theirs"


async def test_the_requests_of_a_tenant_are_found_by_what_darkroom_wrote(objects: Objects) -> None:
    for name in ("a", "a-b", "b.c"):
        await painted(objects, name)
    content = b"stored by a worker that died before it decided"
    digest = hashlib.sha256(content).hexdigest()
    await objects.put(image_key("studio", "orphan", 0, digest, "png", prefix="team/"), content, "image/png")
    await objects.put("team/studio/holiday/pose.png", b"theirs", "image/png")
    await objects.put("team/studio/plan.txt", b"theirs", "text/plain")
    await objects.put("team/studio-2/a/result.json", b"another tenant's", "text/plain")
    found = {name: is_ours async for name, is_ours in Erasing(objects).requests_of("studio")}
    assert found == {"a": True, "a-b": True, "b.c": True, "orphan": True, "holiday": False}


def letter(request_id: str, offset: int) -> Any:
    value = json.dumps({"request_id": request_id, "tenant": "studio", "prompt": PROMPT}).encode()
    original = Original(source(offset), b"k", value, ())
    reason = Reason("worker_crash", "it died", 2, "w")
    return dead_letter(
        original, reason, request_id=request_id, bucket="ours", prefix="team/", record_bytes_max=0
    ).stored


async def test_stored_dead_letters_go_with_their_request_and_no_other_does(objects: Objects) -> None:
    await painted(objects)
    mine, older, others = letter("hello-1", 17), letter("hello-1", 3), letter("hello-2", 5)
    for stored in (mine, older, others):
        await objects.put(stored.key, stored.content, stored.content_type)
    unreadable = "team/.dead-letters/generation.requests/0/9.json"
    await objects.put(unreadable, b"broken", "application/json")
    assert (await erase(objects)).deleted == 4, "three objects, and the letter of the record that was answered"
    assert await Erasing(objects).delete_letters(lambda identity: identity == IDENTITY) == 1
    assert set(await keys(objects, "team/.dead-letters/")) == {others.key, unreadable}
    # A topic that was made anew gives the same places to other requests' records.
    await objects.put(mine.key, letter("hello-2", 17).content, "application/json")
    assert (await erase(objects)).deleted == 0


@pytest.mark.parametrize("offset", [17, 18], ids=["the record that was answered", "one sent again"])
def test_each_record_of_an_erased_request_ends_as_erased_and_says_nothing(offset: int) -> None:
    tombstone = completions.erased(*IDENTITY, success(), by="x" * 300, completed_at=LATER)
    told = completions.for_record(
        tombstone, answered(source=source(offset), request_digest="sha256:" + "0" * 64), now=LATER
    )
    assert (told.status, told.source.offset, told.replayed) == (Status.ERASED, offset, offset != 17)
    assert (told.images, told.labels, told.warnings, told.request_digest, told.found) == ((), {}, (), None, ())
    before = completions.erased(*IDENTITY, None, by="x", completed_at=LATER)
    assert not completions.for_record(before, answered(), now=LATER).replayed, "it repeats no outcome"


async def test_a_store_that_goes_away_is_said_as_that() -> None:
    class Away(MemoryObjects):
        async def delete(self, key: str) -> None:
            raise StoreUnavailable("away")

    objects = Away("ours", prefix="team/")
    await painted(objects)
    with pytest.raises(StoreUnavailable):
        await erase(objects)
    assert await Erasing(objects).leftovers(*IDENTITY) == 3
