"""The closed list of error codes, and the exceptions that carry them.

A code is for programs: it never changes its meaning. Its sentence and its remedy are for people. Exceptions of
this package:

    Exception
    ├── RequestRejected     a record that is not a request; ends as a `failed` completion or a dead letter
    ├── EventUnreadable     bytes that are not the completion, progress or cancellation they should be
    └── SettingsError       a setting that cannot be used (`darkroom.schemas.settings` raises it)
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

MESSAGE_CHARACTERS_MAX: Final = 500
"""The length to which messages are cut: they travel in headers and completions."""


class ErrorCode(StrEnum):
    """Why a request did not succeed."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_FIELD = "unsupported_field"
    REQUEST_TOO_LARGE = "request_too_large"
    BATCH_UNREADABLE = "batch_unreadable"
    REQUEST_ID_CONFLICT = "request_id_conflict"
    POSE_UNREADABLE = "pose_unreadable"
    POSE_NOT_FOUND = "pose_not_found"
    POSE_FORBIDDEN = "pose_forbidden"
    IMAGE_TOO_LARGE = "image_too_large"
    PROMPT_REJECTED = "prompt_rejected"
    IMAGE_REJECTED = "image_rejected"
    UNKNOWN_ADAPTER = "unknown_adapter"
    CONTROL_UNAVAILABLE = "control_unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    RENDER_FAILED = "render_failed"
    WORKER_CRASH = "worker_crash"
    MODEL_MISMATCH = "model_mismatch"
    OUTCOME_UNREADABLE = "outcome_unreadable"
    DEADLINE_PASSED = "deadline_passed"
    CANCELLED = "cancelled"
    ERASED = "erased"


class ErrorText(NamedTuple):
    """Text that describes an error code."""

    sentence: str
    """What happened."""
    remedy: str
    """What whoever sent the request can do."""
    retryable: bool
    """Whether the same request under a new request id may succeed. Under the same id the outcome stands."""


_TEXTS: Final[dict[ErrorCode, ErrorText]] = {
    ErrorCode.INVALID_REQUEST: ErrorText(
        "The event is not a generation request of version 1.",
        "Correct the field that the message names; `darkroom schemas --only request` prints the schema.",
        False,
    ),
    ErrorCode.UNSUPPORTED_FIELD: ErrorText(
        "The request has a field of another tool that would change the picture and is not honoured.",
        "Do with each named field what the message says; `darkroom schemas --only unsupported-fields` prints them all.",
        False,
    ),
    ErrorCode.REQUEST_TOO_LARGE: ErrorText(
        "The event is larger than a request may be.",
        "Put the pose picture in a bucket and name it by bucket and key instead of sending it inline.",
        False,
    ),
    ErrorCode.BATCH_UNREADABLE: ErrorText(
        "A batch of records cannot be taken apart: its checksum, its compression or its lengths are wrong.",
        "`darkroom dlq show --raw` prints its bytes; send its requests again, with a producer that is not at fault.",
        False,
    ),
    ErrorCode.REQUEST_ID_CONFLICT: ErrorText(
        "Another request with this tenant and request id asked for something else.",
        "Use a new request id for every new request, and the same one only to repeat a request unchanged.",
        False,
    ),
    ErrorCode.POSE_UNREADABLE: ErrorText(
        "The pose is not a picture that can be read, or it needs a detector that this worker does not have.",
        "Send keypoints, or an OpenPose skeleton as a whole PNG, JPEG or WebP picture.",
        False,
    ),
    ErrorCode.POSE_NOT_FOUND: ErrorText(
        "There is no object under the pose picture's bucket and key, or there is nobody in the pose.",
        "Upload the picture before the request is published, and check its bucket and key; keypoints, a skeleton or a "
        "photo have to show somebody within the picture.",
        True,
    ),
    ErrorCode.POSE_FORBIDDEN: ErrorText(
        "The pose picture's bucket or key is not one that this deployment reads from.",
        "Put the picture in an allowed bucket, or add the bucket to DARKROOM_S3__ALLOWED_BUCKETS.",
        False,
    ),
    ErrorCode.IMAGE_TOO_LARGE: ErrorText(
        "A picture, the asked one or the pose's, has more bytes or pixels than this deployment allows.",
        "Ask for a smaller picture or send a smaller pose; the bounds are the DARKROOM_LIMITS__* settings.",
        False,
    ),
    ErrorCode.PROMPT_REJECTED: ErrorText(
        "The prompt is not allowed by this deployment's rules.",
        "Change the prompt.",
        False,
    ),
    ErrorCode.IMAGE_REJECTED: ErrorText(
        "A picture was painted that this deployment's rules do not allow, and none was stored.",
        "Change the prompt, or try another seed.",
        True,
    ),
    ErrorCode.UNKNOWN_ADAPTER: ErrorText(
        "The worker has no adapter or textual inversion of this name that it can use with the loaded model.",
        "Name another one or none; `darkroom doctor` says why a file is refused.",
        False,
    ),
    ErrorCode.CONTROL_UNAVAILABLE: ErrorText(
        "The request has a control picture of a kind that none of the worker's ControlNets follows.",
        "Use a kind that the message names, or have a ControlNet for it added to DARKROOM_MODEL__CONTROLNETS.",
        False,
    ),
    ErrorCode.OUT_OF_MEMORY: ErrorText(
        "The device ran out of memory even when this request had it alone.",
        "Ask for a smaller picture, or use a device with more memory.",
        True,
    ),
    ErrorCode.RENDER_FAILED: ErrorText(
        "The picture could not be painted: the model failed or gave values that are not finite.",
        "Try another seed or fewer extremes of guidance and control scale; see the worker's log for the cause.",
        True,
    ),
    ErrorCode.WORKER_CRASH: ErrorText(
        "Workers died each time this request was rendered alone.",
        "Look at the dead letter and the worker's log before it is sent again.",
        False,
    ),
    ErrorCode.MODEL_MISMATCH: ErrorText(
        "The loaded model cannot do what the request asks, a pose without a ControlNet say.",
        "Send the request to workers with a fitting model, or leave out what the model lacks.",
        False,
    ),
    ErrorCode.OUTCOME_UNREADABLE: ErrorText(
        "Something that is no outcome stands in the store where this request's outcome belongs.",
        "Have the object that the message names restored or removed; then send the request under a new request id.",
        True,
    ),
    ErrorCode.DEADLINE_PASSED: ErrorText(
        "The deadline passed before the picture was begun.",
        "Send it again with a later deadline, or add workers.",
        True,
    ),
    ErrorCode.CANCELLED: ErrorText(
        "The request was cancelled before it was finished.",
        "Send it again under a new request id if it is wanted after all.",
        True,
    ),
    ErrorCode.ERASED: ErrorText(
        "The pictures and texts of the request were erased.",
        "Send it again under a new request id if it is wanted after all; this id stays as it is.",
        True,
    ),
}


def describe(code: ErrorCode | str) -> ErrorText:
    """The sentence, remedy and retryable flag of a code. Raises `ValueError` for a code that is not in the list."""
    return _TEXTS[ErrorCode(code)]


def bounded(text: str, characters_max: int = MESSAGE_CHARACTERS_MAX) -> str:
    """`text` cut to `characters_max`, with whatever cannot be encoded or shown on a line escaped.

    Messages quote names that strangers chose. Lone surrogates would make the message itself unpublishable.
    """
    cut = text if len(text) <= characters_max else text[: characters_max - 1] + "…"
    if cut.isprintable():
        return cut
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return escaped if len(escaped) <= characters_max else escaped[: characters_max - 1] + "…"


class RequestRejected(Exception):  # noqa: N818 - the event is what happened to the request, not a failure of ours
    """A record that cannot become a render, and why.

    `request_id` is None where none could be read: such a record ends as a dead letter. Where it is set, `tenant`
    is set too, and the record ends in a `failed` completion, which is why the record's event id, time and trace
    context are here as well, each None where it was not given.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        request_id: str | None = None,
        tenant: str | None = None,
        event_id: str | None = None,
        requested_at: datetime | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.code = code
        self.message = bounded(message)
        self.request_id = request_id
        self.tenant = tenant
        self.event_id = event_id
        self.requested_at = requested_at
        self.traceparent = traceparent
        super().__init__(f"{code}: {self.message}")


class EventUnreadable(Exception):  # noqa: N818 - as above
    """Bytes that are not the completion, progress or cancellation event they should be."""

    def __init__(self, message: str) -> None:
        self.message = bounded(message)
        super().__init__(self.message)


class SettingsError(Exception):
    """A setting that cannot be used: one sentence with its environment variable's name and the remedy."""
