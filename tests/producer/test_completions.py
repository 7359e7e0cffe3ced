"""Proves how completions are made: what each status says, and what another record of a decided request is told."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from darkroom.producer.outcomes import completions
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, PromptRead, Status, Timings
from darkroom.schemas.wire.codec import decode_completion, encode_completion
from tests.producer.examples import DIGEST, NOON, OTHER_DIGEST, Picture, answered, source, success, work

LATER = NOON + timedelta(minutes=5)


def test_pictures_are_named_by_their_own_digest() -> None:
    first, second = Picture(b"one", seed=7), Picture(b"two", seed=8, content_type="image/webp", extension="webp")
    refs = completions.image_refs([first, second], bucket="darkroom", tenant="studio", request_id="hello-1")
    digests = [hashlib.sha256(picture.content).hexdigest() for picture in (first, second)]
    assert [ref.key for ref in refs] == [
        f"studio/hello-1/0-{digests[0][:16]}.png",
        f"studio/hello-1/1-{digests[1][:16]}.webp",
    ]
    assert [ref.sha256 for ref in refs] == digests
    assert [(ref.size_bytes, ref.seed, ref.width, ref.height) for ref in refs] == [(3, 7, 64, 48), (3, 8, 64, 48)]


def test_a_success_says_all_that_was_done() -> None:
    completion = success()
    assert completion.status is Status.SUCCEEDED
    assert completion.error is None
    assert completion.source == source()
    assert completion.request_digest == DIGEST
    assert completion.timings_ms.denoise == 3000.0
    assert completion.cost is not None
    assert completion.batch is not None
    assert completion.prompt == PromptRead(tokens=112, chunks=2)
    assert not completion.replayed


def test_the_total_is_from_the_requests_time_to_the_decision() -> None:
    assert success().timings_ms.total == 3_600_000.0
    ahead = success(requested_at=NOON + timedelta(seconds=3))
    assert ahead.timings_ms.total == 0.0
    assert success(requested_at=None).timings_ms.total is None


def test_each_status_has_its_error() -> None:
    failed = completions.failed(answered(), "render_failed", "it was all black", work(), completed_at=NOON)
    assert failed.error is not None
    assert (failed.error.code, failed.error.retryable) == (ErrorCode.RENDER_FAILED, True)
    assert failed.error.message == "it was all black"
    assert failed.attempts == 1
    expired = completions.expired(answered(), completed_at=NOON)
    assert expired.error is not None
    assert (expired.status, expired.error.code) == (Status.EXPIRED, ErrorCode.DEADLINE_PASSED)
    assert expired.attempts == 0
    assert expired.cost is None
    cancelled = completions.cancelled(answered(), "changed my mind", completed_at=NOON)
    assert cancelled.error is not None
    assert (cancelled.status, cancelled.error.code) == (Status.CANCELLED, ErrorCode.CANCELLED)
    assert cancelled.error.message == "changed my mind"
    unexplained = completions.cancelled(answered(), completed_at=NOON)
    assert unexplained.error is not None
    assert unexplained.error.message


@pytest.mark.parametrize("code", ["no_such_code", "deadline_passed", "cancelled"])
def test_a_failure_has_a_failures_code(code: str) -> None:
    with pytest.raises(ValueError, match=code):
        completions.failed(answered(), code, "message", completed_at=NOON)


def test_what_strangers_wrote_is_cut_to_what_a_completion_may_hold() -> None:
    odd = [f"{number}: {'x' * 2000}\udc80" for number in range(100)]
    failed = completions.failed(answered(warnings=odd), "invalid_request", "y" * 5000, completed_at=NOON)
    assert len(failed.warnings) == 32
    event = encode_completion(failed)
    assert decode_completion(event.value, event.headers) == failed


def test_the_cost_is_seconds_times_the_price_of_an_hour() -> None:
    cost = completions.cost(1800.0, 1.008)
    assert cost.device_seconds == 1800.0
    assert cost.usd == pytest.approx(0.504)


def test_the_decided_record_gets_the_outcome_as_it_was_decided_whoever_publishes_it() -> None:
    standing = success()
    again = completions.for_record(standing, answered(worker="worker-9", event_id="other"), now=LATER)
    assert again == standing


def test_another_record_that_asks_the_same_gets_the_same_pictures_replayed() -> None:
    standing = success()
    about = answered(
        source=source(99, 3), event_id="event-2", worker="worker-9", labels={"a": "b"}, requested_at=NOON, warnings=()
    )
    replay = completions.for_record(standing, about, now=LATER)
    assert replay.replayed
    assert replay.prompt == PromptRead(tokens=112, chunks=2)
    assert (replay.source, replay.event_id, replay.worker) == (source(99, 3), "event-2", "worker-9")
    assert (replay.labels, replay.requested_at, replay.warnings) == ({"a": "b"}, NOON, ())
    assert (replay.images, replay.model, replay.render_digest) == (
        standing.images,
        standing.model,
        standing.render_digest,
    )
    assert replay.completed_at == standing.completed_at
    # No work was done for it, so no sum over completions counts the same work twice.
    assert replay.cost is not None
    assert (replay.cost.device_seconds, replay.cost.usd) == (0.0, 0.0)
    assert (replay.attempts, replay.batch) == (0, None)
    assert replay.timings_ms == Timings(total=300_000.0)
    assert Completion.model_validate_json(replay.model_dump_json()) == replay


@pytest.mark.parametrize(
    "standing",
    [
        completions.failed(answered(), "render_failed", "black", work(), completed_at=NOON),
        completions.expired(answered(), completed_at=NOON),
        completions.cancelled(answered(), completed_at=NOON),
    ],
    ids=lambda completion: completion.status.value,
)
def test_every_status_is_replayed(standing: Completion) -> None:
    replay = completions.for_record(standing, answered(source=source(99)), now=LATER)
    assert replay.replayed
    assert (replay.status, replay.error) == (standing.status, standing.error)


@pytest.mark.parametrize("digest", [OTHER_DIGEST, None])
def test_another_record_that_asks_something_else_is_a_conflict(digest: Any) -> None:
    about = answered(source=source(99, 3), request_digest=digest)
    conflict = completions.for_record(success(), about, now=LATER)
    assert conflict.status is Status.FAILED
    assert conflict.error is not None
    assert conflict.error.code is ErrorCode.REQUEST_ID_CONFLICT
    assert "generation.requests-0-17" in conflict.error.message
    assert (conflict.source, conflict.request_digest) == (source(99, 3), digest)
    assert not conflict.replayed
    assert conflict.images == ()
    assert conflict.completed_at == LATER


def test_a_replay_is_not_known_by_its_partition_alone() -> None:
    for other in (source(18), source(17, 1), source(17, 0, "other.requests")):
        assert completions.for_record(success(), answered(source=other), now=LATER).replayed
