"""Proves that exactly-once rests on no equal bytes: a rendering is signed once, and the first outcome's stays."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkroom.consumer.core.jobs import Verdict, VerdictKind
from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.provenance.signing import signing_of
from darkroom.consumer.provenance.verifying import Worth, credentials_of
from darkroom.consumer.worker.delivery import Delivery, SigningAway
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.payload import Payload
from darkroom.consumer.worker.ports import Record
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import JobRendered, RenderedImage, RenderJob
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.settings import ProvenanceSettings, Settings
from darkroom.schemas.wire.digests import raw_digest
from tests.consumer.credentials import DAY, Signer
from tests.producer.examples import NOON

RENDERED = Verdict(VerdictKind.RENDERED)
DEVICE = SimulatedDevice(0.0)
VALUE = b'{"request_id": "r-1", "prompt": "a dancer", "count": 2, "seed": 7}'


class Store(MemoryObjects):
    """One that fails as often as it is told to, before or after it wrote."""

    puts_fail = 0
    outcomes_fail = 0

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        await super().put(key, content, content_type)
        if self.puts_fail and not key.endswith("result.json"):
            self.puts_fail -= 1
            raise StoreUnavailable("The store went away after a picture was put.")

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        if self.outcomes_fail:
            self.outcomes_fail -= 1
            raise StoreUnavailable("The store went away before the outcome was put.")
        return await super().put_if_absent(key, content, content_type)

    async def pictures(self) -> dict[str, bytes]:
        keys = [key async for key in self.list_keys("") if not key.endswith(".json")]
        return {key: await self.get(key, bytes_max=1 << 20) or b"" for key in keys}


def delivery(store: MemoryObjects, provenance: ProvenanceSettings) -> Delivery:
    made = Delivery(Settings(provenance=provenance), store, lambda _: None, None, signing_of(provenance))
    made.loaded(DEVICE.info)
    return made


def painted(offset: int, value: bytes = VALUE) -> tuple[JobKey, Payload]:
    """A record that a device has painted."""
    intake = Intake(lambda: DEVICE.info, Settings().limits, request_bytes_max=1 << 20)
    record = Record(offset, None, value, (), int(NOON.timestamp() * 1000))
    key = JobKey("generation.requests", 0, offset)
    _, received = intake.take(key.partition_key, record, now=0.0, wall=NOON)
    assert received.render is not None
    images = DEVICE.finish(DEVICE.prepare(RenderJob("job", received.render)).rows)
    payload = Payload(received, attempts=1)
    payload.note_rendered(
        JobRendered("job", tuple(one for one in images if isinstance(one, RenderedImage)), 1.0, 1.0, 0.1, 1, 1)
    )
    return key, payload


async def settled(to: Delivery, offset: int, **changes: Any) -> Completion:
    key, payload = painted(offset, **changes)
    await to.settle(key, payload, RENDERED)
    assert payload.completion is not None
    return payload.completion


async def test_what_is_stored_is_signed_and_the_completion_says_so(tmp_path: Path) -> None:
    store, signer = Store(), Signer(tmp_path)
    completion = await settled(delivery(store, signer.settings(request_digest=True)), 0)
    pictures = await store.pictures()
    assert list(pictures) == sorted(ref.key for ref in completion.images)
    for ref in completion.images:
        content = pictures[ref.key]
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (ref.sha256, ref.size_bytes)
        assert f"-{ref.sha256[:16]}." in ref.key, "the key holds the digest of what is stored"
        found = credentials_of(content, anchors_pem=signer.authority.read_text())
        assert (found.worth, found.model, found.revision) == (Worth.TRUSTED, "simulated", DEVICE.info.revision)
        assert found.request == raw_digest(b"default/r-1")
    unsigned = [hashlib.sha256(image.content).hexdigest() for image in painted(1)[1].images]
    assert [ref.unsigned_sha256 for ref in completion.images] == unsigned
    assert completion.provenance is not None
    assert completion.provenance.signer == "Studio North"


async def test_without_a_certificate_the_digest_is_the_objects_own() -> None:
    completion = await settled(delivery(Store(), ProvenanceSettings()), 0)
    assert completion.provenance is None
    assert [ref.unsigned_sha256 for ref in completion.images] == [None, None]


@pytest.mark.parametrize("failing", ["puts_fail", "outcomes_fail"])
async def test_a_store_that_fails_between_signing_and_storing_gets_the_same_signature_again(
    tmp_path: Path, failing: str
) -> None:
    store = Store()
    to = delivery(store, Signer(tmp_path).settings())
    key, payload = painted(0)
    setattr(store, failing, 1)
    with pytest.raises(Exception, match="The store went away"):
        await to.settle(key, payload, RENDERED)
    first = [image.content for image in payload.images]
    await to.settle(key, payload, RENDERED)
    assert payload.completion is not None
    assert sorted((await store.pictures()).values()) == sorted(first), "two pictures, each signed once"


async def test_a_replay_and_a_second_worker_keep_the_first_signature(tmp_path: Path) -> None:
    store = Store()
    first = await settled(delivery(store, Signer(tmp_path / "north").settings()), 0)
    rival = delivery(store, Signer(tmp_path / "south", name="Studio South").settings())
    key, payload = painted(1)
    assert await rival.look_up(key, payload)
    late = await settled(rival, 2)  # it had looked before the first was decided, and painted and signed, too
    unsigned = await settled(delivery(store, ProvenanceSettings()), 3)
    assert payload.completion is not None
    for adopted in (payload.completion, late, unsigned):
        assert adopted.replayed
        assert (adopted.images, adopted.provenance) == (first.images, first.provenance)


async def test_a_crash_between_signing_and_storing_leaves_one_outcome_with_one_signature(tmp_path: Path) -> None:
    """The process dies with what it signed: the next one paints the same picture and signs it anew."""
    store, signer = Store(), Signer(tmp_path)
    key, payload = painted(0)
    store.outcomes_fail = 1
    with pytest.raises(Exception, match="The store went away"):
        await delivery(store, signer.settings()).settle(key, payload, RENDERED)
    completion = await settled(delivery(store, signer.settings()), 0)
    lost = {hashlib.sha256(image.content).hexdigest() for image in payload.images}
    assert lost.isdisjoint(ref.sha256 for ref in completion.images)
    assert payload.signed is not None
    assert payload.signed.unsigned_sha256 == tuple(ref.unsigned_sha256 for ref in completion.images)
    pictures = await store.pictures()
    assert {ref.key for ref in completion.images} <= pictures.keys()


async def test_nothing_is_stored_unsigned_while_it_is_required(tmp_path: Path) -> None:
    store, signer = Store(), Signer(tmp_path)
    to = delivery(store, signer.settings())
    assert to._signing is not None
    to._signing._wall = lambda: NOON.replace(year=2100)
    key, payload = painted(0)
    with pytest.raises(SigningAway, match="expired"):
        await to.settle(key, payload, RENDERED)
    assert await store.pictures() == {}
    assert len(payload.images) == 2, "the pictures wait"


async def test_a_picture_that_cannot_be_signed_fails_alone_where_it_is_required(tmp_path: Path) -> None:
    to = delivery(Store(), Signer(tmp_path).settings())
    key, payload = painted(0)
    assert payload.rendered is not None
    broken = tuple(replace(image, content=b"\x89PNG") for image in payload.rendered.images)
    payload.rendered = replace(payload.rendered, images=broken)
    await to.settle(key, payload, RENDERED)
    assert payload.completion is not None
    assert payload.completion.status is Status.FAILED
    assert payload.completion.error is not None
    assert payload.completion.error.code is ErrorCode.RENDER_FAILED
    assert "stores no picture unsigned" in payload.completion.error.message


async def test_best_effort_stores_it_unsigned_with_a_warning(tmp_path: Path) -> None:
    to = delivery(Store(), Signer(tmp_path, since=-3 * DAY, until=-DAY).settings(mode="best_effort"))
    completion = await settled(to, 0)
    assert completion.status is Status.SUCCEEDED
    assert completion.provenance is None
    assert any("not signed" in one for one in completion.warnings)
