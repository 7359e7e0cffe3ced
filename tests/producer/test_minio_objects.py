"""Proves what the S3 client does when the network or the server does not: retries, time-outs, and errors with remedies.

The server is a scripted one, so that answers can be lost and refused at will; the last tests use the real one.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
import uuid
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from darkroom.producer.store.lifecycle import RETENTION_RULE
from darkroom.producer.store.objects import BucketForbidden, ObjectTooLarge, StoreUnavailable, StoreUnsuitable
from darkroom.producer.store.s3_bucket import PROBE_KEY
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import S3Settings
from tests.producer.objects_server import Answer, s3_error, serving

if TYPE_CHECKING:
    from tests.producer.deployments import MakeSettings

WRITTEN = Answer(200, headers={"ETag": '"e"'})
STANDS = s3_error(412, "PreconditionFailed")
CONFLICT = s3_error(409, "ConditionalRequestConflict")
BROKEN = Answer(0)


async def put_if_absent(s3: S3Settings) -> bool:
    async with MinioObjects(s3) as objects:
        return await objects.put_if_absent("studio/one/result.json", b"{}", "application/json")


async def test_a_conditional_put_is_signed_and_carries_the_condition() -> None:
    with serving(WRITTEN) as server:
        assert await put_if_absent(server.settings()) is True
    (seen,) = server.seen
    assert seen.method == "PUT"
    assert seen.headers["If-None-Match"] == "*"
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.body == b"{}"
    assert seen.path == "/ours/studio/one/result.json"
    assert seen.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
    signed = seen.headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"if-none-match", "content-md5", "content-type", "host", "x-amz-content-sha256"} <= set(signed)


async def test_a_conditional_put_whose_answer_was_lost_is_sent_again_and_reports_that_an_object_stands() -> None:
    with serving(BROKEN, STANDS) as server:
        assert await put_if_absent(server.settings()) is False
    assert [seen.body for seen in server.seen] == [b"{}", b"{}"]


async def test_a_conflict_is_tried_again() -> None:
    with serving(CONFLICT, CONFLICT, WRITTEN) as server:
        assert await put_if_absent(server.settings(attempts=3)) is True
    assert len(server.seen) == 3


async def test_conflicts_without_end_are_the_stores_fault() -> None:
    with serving(CONFLICT) as server:
        with pytest.raises(StoreUnavailable, match=r"being written by others"):
            await put_if_absent(server.settings(attempts=2))
        assert len(server.seen) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_server_is_asked_as_often_as_the_settings_say(status: int) -> None:
    with serving(Answer(status)) as server:
        async with MinioObjects(server.settings(attempts=2)) as objects:
            for call in (
                objects.put("key", b"x", "text/plain"),
                objects.put_if_absent("key", b"x", "text/plain"),
                objects.get("key", bytes_max=10),
                objects.delete("key"),
            ):
                server.seen.clear()
                with pytest.raises(StoreUnavailable, match=r"DARKROOM_S3__ENDPOINT"):
                    await call
                assert len(server.seen) == 2


async def test_a_server_that_recovers_costs_nothing_but_time() -> None:
    with serving(Answer(503), BROKEN, Answer(200, b"content")) as server:
        async with MinioObjects(server.settings(attempts=3)) as objects:
            assert await objects.get("key", bytes_max=10) == b"content"


async def test_nobody_at_the_address_is_said_with_the_address() -> None:
    with serving(WRITTEN) as server:
        s3 = server.settings(attempts=1)
    async with MinioObjects(s3) as objects:
        with pytest.raises(StoreUnavailable, match=rf"{s3.endpoint}.*DARKROOM_S3__ENDPOINT"):
            await objects.get("key", bytes_max=10)


async def test_a_server_that_says_nothing_is_left_after_the_read_time_out() -> None:
    release = threading.Event()
    with serving(Answer(200, before=lambda: release.wait(10))) as server:
        async with MinioObjects(server.settings(read_timeout_s=0.2, attempts=1)) as objects:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await objects.get("key", bytes_max=10)
            assert time.monotonic() - started < 5
        release.set()


async def test_a_slow_server_does_not_hold_the_event_loop() -> None:
    release = threading.Event()
    with serving(Answer(200, b"late", before=lambda: release.wait(10))) as server:
        async with MinioObjects(server.settings(read_timeout_s=10.0)) as objects:
            reading = asyncio.create_task(objects.get("key", bytes_max=10))
            while not server.seen:
                await asyncio.sleep(0.001)  # could not be, were the loop held: the server answers only after it
            release.set()
            assert await reading == b"late"


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
async def test_a_refusal_is_ours_for_the_own_bucket_and_forbidden_for_another(code: str) -> None:
    with serving(s3_error(403, code)) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnavailable, match=r"refuses us the bucket ours .*DARKROOM_S3__SECRET_KEY"):
                await objects.get("key", bytes_max=10)
            with pytest.raises(StoreUnavailable, match=r"refuses us the bucket ours"):
                await objects.put_if_absent("key", b"x", "text/plain")
            with pytest.raises(BucketForbidden, match=r"The bucket theirs"):
                await objects.get("key", bucket="theirs", bytes_max=10)


async def test_a_refused_look_without_a_text_is_told_from_an_absent_object() -> None:
    with serving(Answer(403)) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnavailable, match=r"refuses us"):
                await objects.stat("key")
            with pytest.raises(BucketForbidden):
                await objects.stat("key", bucket="theirs")
            with pytest.raises(StoreUnavailable, match=r"refuses us"):
                await objects.put_if_absent("key", b"x", "text/plain")


async def test_clocks_that_differ_are_named() -> None:
    with serving(s3_error(403, "RequestTimeTooSkewed")) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnavailable, match=r"clock.*NTP"):
                await objects.put("key", b"x", "text/plain")


async def test_the_own_bucket_that_is_not_there_is_a_fault_and_anothers_holds_nothing() -> None:
    with serving(s3_error(404, "NoSuchBucket")) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnavailable, match=r"has no bucket ours.*DARKROOM_S3__BUCKET"):
                await objects.get("key", bytes_max=10)
            assert await objects.get("key", bucket="theirs", bytes_max=10) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(400, b"<Error", {"Content-Type": "application/xml"}),
        Answer(418, b"a teapot", {"Content-Type": "text/plain"}),
        Answer(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"}),
    ],
    ids=["broken XML", "an odd status", "a redirection"],
)
async def test_an_answer_that_makes_no_sense_is_the_stores_fault(answer: Answer) -> None:
    with serving(answer) as server:
        async with MinioObjects(server.settings(attempts=1)) as objects:
            for call in (
                objects.get("key", bytes_max=10),
                objects.put("key", b"x", "text/plain"),
                objects.put_if_absent("key", b"x", "text/plain"),
            ):
                with pytest.raises(StoreUnavailable):
                    await call
    assert all(seen.path.startswith("/ours/") for seen in server.seen)


async def test_a_declared_size_above_the_bound_is_not_read_and_the_client_goes_on() -> None:
    large, small = Answer(200, b"x" * 1_000_000), Answer(200, b"small")
    with serving(large, small) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(ObjectTooLarge):
                await objects.get("key", bytes_max=10)
            assert await objects.get("key", bytes_max=10) == b"small"


async def test_a_closed_client_says_so() -> None:
    with serving(WRITTEN) as server:
        objects = MinioObjects(server.settings())
        objects.close()
        objects.close()
        with pytest.raises(StoreUnavailable, match="was closed"):
            await objects.put("key", b"x", "text/plain")


async def test_secrets_are_in_no_error() -> None:
    with serving(s3_error(403, "SignatureDoesNotMatch")) as server:
        async with MinioObjects(server.settings(secret_key="very-secret")) as objects:
            with pytest.raises(StoreUnavailable) as caught:
                await objects.put_if_absent("key", b"x", "text/plain")
    assert "very-secret" not in f"{caught.value!r} {caught.value}"


async def test_no_signature_is_in_an_address_a_log_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads it could put that object for as long as the signature holds."""
    with serving(BROKEN) as server:
        async with MinioObjects(server.settings(access_key="our-access-key", attempts=3)) as objects:
            with pytest.raises(StoreUnavailable) as caught:
                await objects.put_if_absent("key", b"x", "text/plain")
    assert all("?" not in seen.path and "Signature=" in seen.headers["Authorization"] for seen in server.seen)
    assert len(server.seen) == 3
    said = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "Signature" not in said
    assert "our-access-key" not in said


async def test_a_store_that_ignores_the_condition_is_refused() -> None:
    lifecycle = Answer(200, b"<LifecycleConfiguration></LifecycleConfiguration>", {"Content-Type": "application/xml"})
    with serving(Answer(200), lifecycle, WRITTEN, WRITTEN) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnsuitable, match=r"If-None-Match"):
                await objects.ensure_bucket(30)
    assert PROBE_KEY in server.seen[-1].path


@pytest.mark.stack
async def test_a_bucket_is_made_once_with_a_rule_for_old_objects(make_settings: MakeSettings) -> None:
    s3 = make_settings(s3__bucket=f"made-{uuid.uuid4().hex[:8]}").s3
    async with MinioObjects(s3) as objects:
        made = await asyncio.gather(*(objects.ensure_bucket(7) for _ in range(3)))
        assert made.count(True) >= 1
        assert await objects.ensure_bucket(9) is False
        assert await objects.put_if_absent("studio/one/result.json", b"{}", "application/json") is True
    rules = _rules(s3)
    assert [(rule.rule_id, rule.expiration and rule.expiration.days) for rule in rules] == [(RETENTION_RULE, 9)]


async def test_a_store_without_lifecycle_rules_is_used_and_that_is_logged() -> None:
    unknown = s3_error(501, "NotImplemented")
    with serving(Answer(200), unknown, WRITTEN, STANDS) as server:
        async with MinioObjects(server.settings()) as objects:
            with capture_logs() as logs:
                assert await objects.ensure_bucket(30) is False
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "lifecycle" in logs[0]["event"]


def _rules(s3: S3Settings) -> list:  # type: ignore[type-arg]
    from minio import Minio

    assert s3.access_key is not None
    assert s3.secret_key is not None
    client = Minio(
        s3.address,
        access_key=s3.access_key.get_secret_value(),
        secret_key=s3.secret_key.get_secret_value(),
        secure=False,
        region=s3.region,
    )
    found = client.get_bucket_lifecycle(s3.bucket)
    return [] if found is None else found.rules
