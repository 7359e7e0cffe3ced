"""From a delivered record to what the core must know of it and what the edges keep of it.

Decoding decides who is refused; nothing here fails for what a record says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from darkroom.consumer.core.jobs import JobFacts, Verdict, VerdictKind
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.worker.payload import Received
from darkroom.consumer.worker.ports import Record
from darkroom.inference.planning.request_costs import NOTHING_MEASURED, RequestCosts
from darkroom.inference.resolve import resolve
from darkroom.inference.types import WATERMARK_SIDE_PX_MIN, ModelError, ModelInfo
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.pose import StoredPicture
from darkroom.schemas.events.request import GenerationRequest, pictures_of, with_pose
from darkroom.schemas.names import DEFAULT_TENANT
from darkroom.schemas.prompts.syntax import warnings_of
from darkroom.schemas.recipes import NO_RECIPES, Recipes
from darkroom.schemas.settings import LimitSettings
from darkroom.schemas.wire.codec import Decoded, decode_request
from darkroom.schemas.wire.digests import raw_digest

AGE_S_MAX = 3600.0
"""The most that a record's time stamp says for it in the order of work."""
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""There was no Darkroom before: an earlier time is a mistake, most often seconds where milliseconds belong."""
EARLIEST_MS = int(EARLIEST.timestamp() * 1000)
AHEAD_MAX = timedelta(days=1)
"""A local time that is taken for UTC is up to 14 hours ahead. A time further ahead is a mistake, most often
microseconds where milliseconds belong."""
NO_TIMESTAMP_MS = -1
"""Kafka's own word for a record without a time (`RecordBatch.NO_TIMESTAMP`), which is no mistake of the producer's."""
PRIORITY_DEFAULT = 4
"""Of a record whose own priority cannot be read."""


class Intake:
    """Takes records in against the loaded model and the deployment's limits."""

    def __init__(
        self,
        info: Callable[[], ModelInfo],
        limits: LimitSettings,
        *,
        request_bytes_max: int,
        recipes: Recipes = NO_RECIPES,
        names_parameters: bool = True,
        fidelity_default: str = "exact",
        costs: RequestCosts = NOTHING_MEASURED,
        watermark: bool = False,
    ) -> None:
        """Make an intake. Pictures tell how they were made if `names_parameters`, and get the mark if `watermark`.

        `info` returns the loaded model as it is now: adapters come and go while the worker runs. `fidelity_default` is
        the fidelity of requests that leave theirs out, as their recipe does. `costs` estimates their device
        time. Raises `ModelError` if the model cannot paint with it.
        """
        name, refused = info().name, info().economy_refused
        if fidelity_default == "economy" and refused is not None:
            raise ModelError(
                f"Model {name!r} cannot paint with fidelity economy: {refused}. Set "
                "DARKROOM_BATCH__FIDELITY_DEFAULT to exact, or use a model with SDXL's UNet."
            )
        self._fidelity_default = fidelity_default
        self._costs = costs
        self._info = info
        self._limits = limits
        self._recipes = recipes
        self._request_bytes_max = request_bytes_max
        self._names_parameters = names_parameters
        self._watermark = watermark

    def take(self, partition: PartitionKey, record: Record, *, now: float, wall: datetime) -> tuple[JobFacts, Received]:
        """Return what the core must know of one record, and its content. `wall` is the time of day at `now`."""
        key = JobKey(*partition, record.offset)
        if record.flaw is not None:
            rejected = RequestRejected(ErrorCode.BATCH_UNREADABLE, record.flaw)
            return _refused(key, record, rejected, now=now, wall=wall)
        try:
            decoded = decode_request(record.value, record.headers, record.key, max_bytes=self._request_bytes_max)
        except RequestRejected as rejected:
            return _refused(key, record, rejected, now=now, wall=wall)
        received = _received(key, record, decoded, wall)
        try:
            request = with_pose(self._recipes.filled(decoded.request))
            if "fidelity" not in request.model_fields_set:
                request = request.model_copy(update={"fidelity": self._fidelity_default})
            render = resolve(
                request,
                self._info(),
                self._limits,
                names_parameters=self._names_parameters,
                watermark=self._watermark,
            )
            if self._watermark and not render.watermark:
                said = f"no watermark: a side has fewer than {WATERMARK_SIDE_PX_MIN} pixels"
                received = replace(received, warnings=(*received.warnings, said))
            received = replace(received, request=request, render=render)
        except RequestRejected as rejected:
            received = replace(received, refusal=rejected)
        assert received.request is not None
        received = replace(received, warnings=(*received.warnings, *_about_prompts(received.request)))
        deadline = decoded.request.deadline
        facts = JobFacts(
            key=key,
            identity=(decoded.request.tenant, decoded.request.request_id),
            rows=decoded.request.count,
            size_bytes=_size_bytes(record),
            priority=decoded.request.priority,
            waiting_since=now - _age_s(record, wall),
            deadline=None if deadline is None else now + (deadline - wall).total_seconds(),
            fetches_pictures=bool(received.request and stored_pictures(received.request)),
            device_us=0 if received.render is None else self._costs.microseconds(received.render),
            refusal=_verdict(received.refusal),
        )
        return facts, received


def stored_pictures(request: GenerationRequest) -> dict[str, StoredPicture]:
    """Return the objects that the request's pictures name, by field; none where the request holds all of them."""
    return {field: one for field, one in pictures_of(request).items() if isinstance(one, StoredPicture)}


def _refused(
    key: JobKey, record: Record, rejected: RequestRejected, *, now: float, wall: datetime
) -> tuple[JobFacts, Received]:
    asked = _asked(rejected.requested_at, record, wall)
    received = Received(
        record=record,
        event_id=rejected.event_id or _coordinates(key),
        request_digest=raw_digest(record.value or b""),
        requested_at=asked.at,
        traceparent=rejected.traceparent,
        tenant=rejected.tenant or DEFAULT_TENANT,
        request_id=rejected.request_id,
        warnings=asked.warnings,
        refusal=rejected,
    )
    identity = None if rejected.request_id is None else (received.tenant, rejected.request_id)
    facts = JobFacts(
        key,
        identity,
        rows=1,
        size_bytes=_size_bytes(record),
        priority=PRIORITY_DEFAULT,
        waiting_since=now - _age_s(record, wall),
        refusal=_verdict(rejected),
    )
    return facts, received


def _received(key: JobKey, record: Record, decoded: Decoded, wall: datetime) -> Received:
    asked = _asked(decoded.requested_at, record, wall)
    return Received(
        record=record,
        event_id=decoded.event_id or _coordinates(key),
        request_digest=decoded.digest,
        requested_at=asked.at,
        request=decoded.request,
        traceparent=decoded.traceparent,
        tenant=decoded.request.tenant,
        request_id=decoded.request.request_id,
        warnings=(*decoded.warnings, *asked.warnings),
    )


def _about_prompts(request: GenerationRequest) -> tuple[str, ...]:
    """Warnings of what another tool would not have read as text."""
    is_weighted = request.prompt_syntax == "weighted"
    warnings = warnings_of(request.prompt, is_weighted=is_weighted)
    negative = request.negative_prompt
    return (*warnings, *warnings_of(negative, "negative_prompt", is_weighted=is_weighted)) if negative else warnings


def _verdict(rejected: RequestRejected | None) -> Verdict | None:
    return None if rejected is None else Verdict(VerdictKind.FAILED, rejected.code.value, rejected.message)


def _coordinates(key: JobKey) -> str:
    return f"{key.topic}-{key.partition}-{key.offset}"


class _Asked(NamedTuple):
    at: datetime | None
    warnings: tuple[str, ...] = ()


def _asked(event_time: datetime | None, record: Record, wall: datetime) -> _Asked:
    """Return when a request was asked for: its event's time, else its record's, each only where it is believable."""
    if event_time is not None and _is_believable(event_time, wall):
        return _Asked(event_time)
    warnings: tuple[str, ...] = ()
    if event_time is not None:
        warnings = (f"the event's CloudEvents time, {event_time.isoformat()}, is {_beyond(event_time < EARLIEST)}",)
    if record.timestamp_ms == NO_TIMESTAMP_MS:
        return _Asked(None, warnings)
    record_time = _record_time(record, wall)
    if record_time is None:
        said = f"the record's time, {record.timestamp_ms} ms, is {_beyond(record.timestamp_ms < EARLIEST_MS)}; Kafka's"
        warnings = (*warnings, f"{said} record times are milliseconds since 1970")
    return _Asked(record_time, warnings)


def _beyond(is_early: bool) -> str:
    return "before Darkroom's first release" if is_early else "more than a day ahead of the worker's clock"


def _record_time(record: Record, wall: datetime) -> datetime | None:
    """Return the record's own time, None where it is not believable: a producer may write any 64 bits."""
    if not EARLIEST_MS <= record.timestamp_ms <= (wall + AHEAD_MAX).timestamp() * 1000:
        return None
    return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)


def _is_believable(moment: datetime, wall: datetime) -> bool:
    return EARLIEST <= moment <= wall + AHEAD_MAX


def _age_s(record: Record, wall: datetime) -> float:
    """Return how long the record has waited, within bounds: a wrong clock must not let it jump the queue."""
    if record.timestamp_ms < EARLIEST_MS:
        return 0.0
    return min(AGE_S_MAX, max(0.0, wall.timestamp() - record.timestamp_ms / 1000))


def _size_bytes(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers
