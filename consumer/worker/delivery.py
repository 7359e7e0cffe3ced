"""A job's use of the store, and the records published of it: look up, fetch pictures, settle, and the records.

Outcome first, then publication. A terminal outcome is decided by the conditional put of `result.json`; whoever
loses adopts what stands, and only what stands is ever published.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from darkroom.consumer.core.jobs import Verdict, VerdictKind
from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.provenance.signing import CannotSign, PictureNotSigned, Signing
from darkroom.consumer.safety.classifiers import ClassifierAway
from darkroom.consumer.safety.judging import Judging
from darkroom.consumer.worker.intake import stored_pictures
from darkroom.consumer.worker.payload import Payload, Payloads
from darkroom.consumer.worker.ports import OutgoingRecord
from darkroom.inference.types import WATERMARK, ModelInfo
from darkroom.producer.outages import CLASSIFIER, SIGNER, STORE
from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.completions import Answered, Work
from darkroom.producer.outcomes.dead_letters import Original, Reason, dead_letter
from darkroom.producer.outcomes.erasing import Erasing
from darkroom.producer.outcomes.outcomes import Outcomes, OutcomeUnreadable
from darkroom.producer.policy.policy_file import PolicyFile
from darkroom.producer.store.objects import BucketForbidden, Objects, ObjectTooLarge, StoreUnavailable
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import BatchSeen, Completion, ModelRef, Source, Status, Timings
from darkroom.schemas.events.pose import StoredPicture
from darkroom.schemas.events.progress import Cancellation
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import encode_completion
from darkroom.schemas.wire.digests import raw_digest, render_digest
from darkroom.schemas.wire.echo import echoed

if TYPE_CHECKING:
    from darkroom.consumer.provenance.manifest import Said
    from darkroom.consumer.worker.traces import WorkerTraces

log = structlog.get_logger(__name__)

REASONS_MAX = 10_000
"""Reasons of cancellations that are remembered, of at most 500 characters each."""


class StoreAway(Exception):  # noqa: N818 - nothing is wrong with the job
    """The store did not answer. The call is to be made again."""

    outage = STORE


class SigningAway(StoreAway):
    """Pictures cannot be signed now, and may not be stored unsigned. The call is to be made again."""

    outage = SIGNER


class JudgingAway(StoreAway):
    """Nobody can look at the pictures now, and they may not be stored before. The call is to be made again."""

    outage = CLASSIFIER


class RequestRefused(Exception):  # noqa: N818 - as above
    """A request that is not rendered after all, for its prompt or its pose picture, with its error code."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code.value
        self.message = message


class Delivery:
    """Makes completions and puts them where they belong. Holds no job's state: that is in its payload."""

    def __init__(
        self,
        settings: Settings,
        objects: Objects,
        on_published: Callable[[Completion | None], None],
        policy: PolicyFile | None = None,
        signing: Signing | None = None,
        *,
        traces: WorkerTraces | None = None,
        judging: Judging | None = None,
    ) -> None:
        """Without a policy every prompt is painted, without signing no picture has content credentials, without traces
        a completion carries the context of its request, and without judging nobody looks at pictures.
        """
        self._settings = settings
        self._objects = objects
        self._policy = policy
        self._signing = signing
        self._traces = traces
        self._judging = judging
        self._outcomes = Outcomes(objects)
        self._erasing = Erasing(objects)
        self._on_published = on_published
        self._info: ModelInfo | None = None
        self._reasons: OrderedDict[tuple[str, str], str] = OrderedDict()
        prefix = settings.topics.prefix
        self._completions_topic = prefix + Topic.COMPLETIONS.value
        self._dead_letters_topic = prefix + Topic.DEAD_LETTERS.value

    def loaded(self, info: ModelInfo) -> None:
        """The model that completions name from now on."""
        self._info = info

    def cancelled(self, cancellation: Cancellation) -> None:
        """Remember why, for the completion. The oldest reasons are forgotten first, and a completion says less then."""
        if cancellation.reason is None:
            return
        identity = (cancellation.tenant, cancellation.request_id)
        self._reasons[identity] = cancellation.reason
        self._reasons.move_to_end(identity)
        if len(self._reasons) > REASONS_MAX:
            self._reasons.popitem(last=False)

    async def look_up(self, key: JobKey, payload: Payload) -> bool:
        """Look for an outcome of the request that was decided before; then the payload's completion is made from it."""
        assert payload.received.request_id is not None
        payload.take()
        try:
            standing = await self._outcomes.find(payload.received.tenant, payload.received.request_id)
        except StoreUnavailable as error:
            raise StoreAway(str(error)) from error
        except OutcomeUnreadable as unreadable:
            payload.decide(self._unreadable(key, payload, unreadable))
            return True
        if standing is None:
            return False
        await self._sweep(standing)
        payload.decide(completions.for_record(standing, self._answered(key, payload), now=datetime.now(UTC)))
        return True

    @property
    def judges_prompts(self) -> bool:
        """True if a policy judges each prompt before it is prepared."""
        return self._policy is not None and self._policy.judges

    async def judge_prompt(self, payload: Payload) -> None:
        """Ask the policy in force. Raises `RequestRefused`.

        Here and not where records are taken in: a classifier takes time, and an outcome that was decided before stands
        under any later policy.
        """
        if self._policy is None or payload.received.request is None:
            return
        rejection = await self._policy.judge(payload.received.request.prompt, payload.received.request.negative_prompt)
        if rejection is not None:
            raise RequestRefused(ErrorCode.PROMPT_REJECTED, str(rejection))

    async def fetch_pictures(self, payload: Payload) -> None:
        """Put the bytes of the pictures that the request names by bucket and key into its payload, read in parallel."""
        named = {} if payload.received.request is None else stored_pictures(payload.received.request)
        read = await asyncio.gather(*(self._fetch(picture) for picture in named.values()), return_exceptions=True)
        pictures: dict[str, bytes] = {}
        for field, one in zip(named, read, strict=True):
            if isinstance(one, BaseException):
                raise one
            pictures[field] = one
        payload.pictures = pictures

    async def _fetch(self, picture: StoredPicture) -> bytes:
        """Return a picture's bytes. Raises `RequestRefused`, and `StoreAway` while the store cannot be asked."""
        s3 = self._settings.s3
        if not s3.may_read(picture.bucket):
            raise RequestRefused(ErrorCode.POSE_FORBIDDEN, str(BucketForbidden(picture.bucket)))
        if not s3.may_show(picture.bucket, picture.key):
            raise RequestRefused(
                ErrorCode.POSE_FORBIDDEN,
                f"Of the bucket {picture.bucket} only what is below {s3.prefix} is read as a picture. Put the "
                "picture below it or in an allowed bucket, or add this bucket to DARKROOM_S3__ALLOWED_BUCKETS, which "
                "lets every request name any object in it.",
            )
        bytes_max = self._settings.limits.pose_picture_bytes_max
        try:
            content = await self._objects.get(picture.key, bucket=picture.bucket, bytes_max=bytes_max)
        except BucketForbidden as error:
            raise RequestRefused(ErrorCode.POSE_FORBIDDEN, str(error)) from error
        except ObjectTooLarge as error:
            raise RequestRefused(ErrorCode.IMAGE_TOO_LARGE, str(error)) from error
        except StoreUnavailable as error:
            raise StoreAway(str(error)) from error
        if content is None:
            raise RequestRefused(
                ErrorCode.POSE_NOT_FOUND, f"There is no object {picture.key} in the bucket {picture.bucket}."
            )
        return content

    async def settle(self, key: JobKey, payload: Payload, verdict: Verdict) -> None:
        """Store the pictures and decide the outcome. The payload's completion is made from the one that stands."""
        if self._judging is not None and verdict.kind is VerdictKind.RENDERED:
            verdict = await self._judge(self._judging, payload, verdict)
        if self._signing is not None and verdict.kind is VerdictKind.RENDERED:
            verdict = await self._sign(self._signing, payload, verdict)
        answered = self._answered(key, payload)
        images = payload.images if verdict.kind is VerdictKind.RENDERED else ()
        proposed = self._proposed(answered, payload, verdict)
        began_ns = time.time_ns()
        try:
            standing = await self._outcomes.decide(proposed, images)
        except StoreUnavailable as error:
            raise StoreAway(str(error)) from error
        except OutcomeUnreadable as unreadable:
            payload.decide(self._unreadable(key, payload, unreadable))
            return
        except MemoryError:
            raise
        except Exception:
            if not _is_everybodys(payload, verdict):
                raise  # ends the process; after some such ends the verdict is that of a crash
            # Else the record would end every worker, and hold its partition, for ever.
            log.exception("an outcome is published that could not be stored", request_id=payload.received.request_id)
            payload.decide(proposed)
            return
        payload.stored_ns = (began_ns, time.time_ns())
        await self._sweep(standing)
        payload.decide(completions.for_record(standing, answered, now=datetime.now(UTC)))

    async def _sweep(self, standing: Completion) -> None:
        """Delete what was stored of an erased request: by this worker just now, or by one that died."""
        if standing.status is not Status.ERASED:
            return
        try:
            deleted = await self._erasing.sweep(standing.tenant, standing.request_id)
            log.info("erased", tenant=standing.tenant, request_id=standing.request_id, objects=deleted)
        except StoreUnavailable as error:
            # The outcome does not depend on it, and a missing right to delete would hold the record for ever.
            log.warning(
                "pictures of an erased request may be left: erase it again",
                tenant=standing.tenant,
                request_id=standing.request_id,
                error=str(error),
            )

    async def _judge(self, judging: Judging, payload: Payload, verdict: Verdict) -> Verdict:
        """Have the pictures looked at, once however often they are stored. Return the verdict, or their rejection."""
        if payload.judged is None:
            try:
                payload.judged = await judging.judged(payload.images)
            except ClassifierAway as error:
                raise JudgingAway(f"Pictures wait to be looked at: {error}") from error
        if payload.judged.rejection is None:
            return verdict
        return Verdict(VerdictKind.FAILED, ErrorCode.IMAGE_REJECTED.value, payload.judged.rejection)

    async def _sign(self, signing: Signing, payload: Payload, verdict: Verdict) -> Verdict:
        """Sign the pictures, once however often they are stored. Return the verdict, or that they cannot be signed."""
        if payload.signed is not None:
            return verdict
        try:
            payload.note_signed(await signing.signed(payload.images, self._said(signing, payload)))
            log.debug("signed", request_id=payload.received.request_id)
        except CannotSign as error:
            raise SigningAway(f"Pictures wait to be signed: {error}") from error
        except PictureNotSigned as error:
            log.exception("a picture was not signed", request_id=payload.received.request_id)
            message = f"{error}, and this deployment stores no picture unsigned."
            return Verdict(VerdictKind.FAILED, ErrorCode.RENDER_FAILED.value, message)
        return verdict

    def _said(self, signing: Signing, payload: Payload) -> Said:
        from darkroom.consumer.provenance.manifest import Said, ingredients_of

        assert self._info is not None
        received = payload.received
        identity = f"{received.tenant}/{received.request_id}".encode()
        return Said(
            self._info.name,
            self._info.revision,
            raw_digest(identity) if signing.names_requests else None,
            ingredients_of(received.request, payload.pictures),
        )

    async def records(self, keys: Sequence[JobKey], payloads: Payloads) -> list[OutgoingRecord]:
        """The records of decided jobs: a completion each, or a dead letter where no request id could be read; both
        where the request killed its workers.
        """
        records = []
        for key in keys:
            payload = payloads[key]
            if payload.completion is None or _killed_its_workers(payload.completion):
                records.append(await self._dead_letter(key, payload))
            if payload.completion is not None:
                published, echoed = payload.completion, self._echoed(payload)[0]
                if payload.is_small and (echoed or published.labels or published.warnings or published.found):
                    published, echoed = trimmed(published), ()
                traceparent = payload.received.traceparent
                if self._traces is not None:
                    traceparent = self._traces.publishing(key, payload).headers.get("traceparent", traceparent)
                event = encode_completion(published, traceparent=traceparent)
                headers = (*event.headers, *echoed)
                records.append(OutgoingRecord(self._completions_topic, event.key, event.value, headers))
        return records

    async def publish_smaller(self, keys: Sequence[JobKey], payloads: Payloads) -> None:
        """Publish the largest of these jobs in its smallest form from now on: the broker found one too large.

        Only the largest, since the broker does not say which one it was and the others lose nothing for it. Where that
        was not enough the broker says so again, and the next one follows.
        """
        try:
            sizes = {
                key: max(_size_bytes(record) for record in await self.records([key], payloads))
                for key in keys
                if not payloads[key].is_small
            }
        except StoreAway:
            return  # the broker refuses it once more, and the store is asked again
        for key, size_bytes in sizes.items():
            payloads[key].is_small = size_bytes == max(sizes.values())

    def published(self, keys: Sequence[JobKey], payloads: Payloads) -> None:
        """The transaction with these jobs was committed."""
        if self._traces is not None:
            self._traces.published(payload for key in keys if (payload := payloads.get(key)) is not None)
        for key in keys:
            payload = payloads.get(key)
            if payload is None:
                continue
            completion = payload.completion
            self._on_published(completion)
            if completion is None:
                log.warning("dead letter", source=_coordinates(key), error=str(payload.received.refusal))
                continue
            log.info(
                "published",
                request_id=completion.request_id,
                tenant=completion.tenant,
                status=completion.status.value,
                code=completion.error.code.value if completion.error else None,
                replayed=completion.replayed,
                total_ms=completion.timings_ms.total,
                source=_coordinates(key),
                **_trace_ids(payload),
            )

    async def _dead_letter(self, key: JobKey, payload: Payload) -> OutgoingRecord:
        record = payload.received.record
        letter = dead_letter(
            Original(_source(key), record.key, record.value, record.headers),
            self._reason(payload),
            request_id=payload.received.request_id,
            bucket=self._objects.bucket,
            prefix=self._objects.prefix,
            record_bytes_max=0 if payload.is_small else self._settings.topics.max_message_bytes,
        )
        if letter.stored is not None:
            try:
                await self._objects.put(letter.stored.key, letter.stored.content, letter.stored.content_type)
            except StoreUnavailable as error:
                raise StoreAway(str(error)) from error
        return OutgoingRecord(self._dead_letters_topic, letter.key, letter.value, tuple(letter.headers))

    def _reason(self, payload: Payload) -> Reason:
        worker = self._settings.worker.name
        if payload.completion is not None and payload.completion.error is not None:
            error = payload.completion.error
            return Reason(error.code.value, error.message, self._settings.worker.max_attempts, worker)
        assert payload.received.refusal is not None
        return Reason(payload.received.refusal.code.value, payload.received.refusal.message, payload.attempts, worker)

    def _proposed(self, answered: Answered, payload: Payload, verdict: Verdict) -> Completion:
        now = datetime.now(UTC)
        work = self._work(payload)
        identity = (answered.tenant, answered.request_id)
        match verdict.kind:
            case VerdictKind.RENDERED:
                refs = completions.image_refs(
                    payload.images,
                    bucket=self._objects.bucket,
                    prefix=self._objects.prefix,
                    tenant=answered.tenant,
                    request_id=answered.request_id,
                    unsigned=() if payload.signed is None else payload.signed.unsigned_sha256,
                )
                return completions.succeeded(answered, refs, work, completed_at=now)
            case VerdictKind.EXPIRED:
                return completions.expired(answered, work, completed_at=now)
            case VerdictKind.CANCELLED:
                return completions.cancelled(answered, self._reasons.get(identity), work, completed_at=now)
            case VerdictKind.FAILED:
                code, message = verdict.code or ErrorCode.RENDER_FAILED, verdict.message or ""
                return completions.failed(answered, code, message, work, completed_at=now)

    def _unreadable(self, key: JobKey, payload: Payload, unreadable: OutcomeUnreadable) -> Completion:
        """The one outcome that is not in the store, since something else stands in its place."""
        log.error("an outcome cannot be read", request_id=payload.received.request_id, error=str(unreadable))
        return completions.failed(
            self._answered(key, payload),
            ErrorCode.OUTCOME_UNREADABLE,
            str(unreadable),
            self._work(payload),
            completed_at=datetime.now(UTC),
        )

    def _answered(self, key: JobKey, payload: Payload) -> Answered:
        assert payload.received.request_id is not None
        _, left_out = self._echoed(payload)
        return Answered(
            request_id=payload.received.request_id,
            tenant=payload.received.tenant,
            event_id=payload.received.event_id,
            source=_source(key),
            request_digest=payload.received.request_digest,
            worker=self._settings.worker.name,
            requested_at=payload.received.requested_at,
            labels=payload.received.request.labels if payload.received.request is not None else {},
            warnings=payload.warnings if left_out is None else (left_out, *payload.warnings),
        )

    def _echoed(self, payload: Payload) -> tuple[tuple[tuple[str, bytes | None], ...], str | None]:
        """The record's own headers that its completion has too, and a warning where not all do."""
        return echoed(payload.received.record.headers, self._settings.kafka.echo_headers)

    def _work(self, payload: Payload) -> Work:
        info, request = self._info, payload.received.request
        prepared, rendered = payload.prepared, payload.rendered
        if info is None or request is None or payload.attempts == 0:
            return Work()
        return Work(
            timings=Timings(
                queued=payload.queued_ms,
                prepare=None if prepared is None else prepared.prepare_ms,
                waited=payload.waited_ms,
                denoise=None if rendered is None else rendered.denoise_ms,
                decode=None if rendered is None else rendered.decode_ms,
            ),
            attempts=payload.attempts,
            batch=None if rendered is None else BatchSeen(rows_min=rendered.rows_min, rows_max=rendered.rows_max),
            model=ModelRef(name=info.name, revision=info.revision),
            prompt=None if prepared is None else prepared.prompt,
            found=payload.found,
            full_steps=None if rendered is None else rendered.full_steps,
            render_digest=None if rendered is None else _render_digest(payload, request, info),
            cost=completions.cost(payload.device_seconds, self._settings.worker.usd_per_device_hour),
            provenance=None if payload.signed is None else payload.signed.provenance,
            flagged=None if payload.judged is None else payload.judged.flagged,
        )


def _render_digest(payload: Payload, request: GenerationRequest, info: ModelInfo) -> str:
    """With the native size filled in: two requests that get the same picture have the same digest."""
    sized, render = request, payload.received.render
    if render is not None:
        sized = request.model_copy(update={"width": render.width, "height": render.height})
    return render_digest(
        sized,
        info.revision,
        info.sampler_version,
        pictures=payload.pictures,
        pose_detector=info.pose_detector,
        adapter_digests={} if payload.prepared is None else payload.prepared.adapters,
        pose_style=info.pose_style,
        watermark=WATERMARK if render is not None and render.watermark else None,
        control_digests=info.controls,
    )


def _trace_ids(payload: Payload) -> dict[str, str]:
    """Return the ids of the request's trace and span: its worker's own, or else the requester's."""
    if payload.publishing is not None:
        return payload.publishing.ids
    if payload.received.traceparent is None:
        return {}
    _, trace_id, span_id, _ = payload.received.traceparent.split("-")
    return {"trace_id": trace_id, "span_id": span_id}


def _size_bytes(record: OutgoingRecord) -> int:
    return len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)


def trimmed(completion: Completion) -> Completion:
    """Return the completion without what can be left out: labels, warnings, people found. Say so in their place."""
    left_out = (
        "labels, warnings, the people found in the photo and echoed headers were left out: the completions topic takes "
        "no larger record"
    )
    return completion.model_copy(update={"labels": {}, "warnings": (left_out,), "found": ()})


def _is_everybodys(payload: Payload, verdict: Verdict) -> bool:
    """Whether every worker comes to this verdict at each start: by the record itself, the clock, or the crashes."""
    is_crash = verdict.code == ErrorCode.WORKER_CRASH.value
    return payload.received.refusal is not None or is_crash or verdict.kind is VerdictKind.EXPIRED


def _killed_its_workers(completion: Completion) -> bool:
    """Whether the record is set aside as well. By the outcome, which also a worker publishes that did not decide it."""
    error = completion.error
    return error is not None and error.code is ErrorCode.WORKER_CRASH and not completion.replayed


def _source(key: JobKey) -> Source:
    return Source(topic=key.topic, partition=key.partition, offset=key.offset)


def _coordinates(key: JobKey) -> str:
    return f"{key.topic}-{key.partition}-{key.offset}"
