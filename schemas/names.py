"""Every name that two programs have to agree on: topics, event types, headers and object keys.

Nothing here is computed from settings. A deployment that shares a broker with others puts a prefix before the
topic names (`darkroom.schemas.settings.TopicSettings.prefix`), and one that shares a bucket puts one before its keys
(`darkroom.schemas.settings.S3Settings.prefix`); everything else is the same everywhere.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Final


class Topic(StrEnum):
    """The topics, without a deployment's prefix."""

    REQUESTS = "generation.requests"
    COMPLETIONS = "generation.completions"
    PROGRESS = "generation.progress"
    CANCELLATIONS = "generation.cancellations"
    DEAD_LETTERS = "generation.dead-letters"


class EventType(StrEnum):
    """The CloudEvents types (`ce_type`). The number at the end changes when old readers could not read the event."""

    REQUESTED = "darkroom.generation.requested.v1"
    COMPLETED = "darkroom.generation.completed.v1"
    PROGRESS = "darkroom.generation.progress.v1"
    CANCELLED = "darkroom.generation.cancelled.v1"


class DeadLetterHeader(StrEnum):
    """The headers that a dead letter carries beside those of the record it was."""

    TOPIC = "darkroom_source_topic"
    PARTITION = "darkroom_source_partition"
    OFFSET = "darkroom_source_offset"
    ERROR_CODE = "darkroom_error_code"
    ERROR_MESSAGE = "darkroom_error_message"
    ATTEMPTS = "darkroom_attempts"
    WORKER = "darkroom_worker"
    OBJECT = "darkroom_object"
    """Set where the record was too large to be repeated: `bucket/key` of the object that holds its bytes."""
    KEY = "darkroom_source_key"
    """The record's key as it was; left out where it had none, and where the record is in the object."""
    HEADERS = "darkroom_source_headers"
    """Set where a header's name is not UTF-8: all headers, as a JSON list of [name, value or null] in base64."""


class ReplayHeader(StrEnum):
    """Headers that a replay of a dead letter writes. Both values are written topic-partition-offset."""

    OF = "darkroom_replay_of"
    """On the request topic: the record that this one repeats. On the dead letters topic: the record whose letter was
    replayed; then this is the note of the replay, and no dead letter."""
    AS = "darkroom_replayed_as"
    """On the note alone: the new record."""


CLIENT_SOURCE: Final = "/darkroom/client"
"""The `ce_source` of events that a client or the command line publishes."""
GATEWAY_SOURCE: Final = "/darkroom/gateway"
"""The `ce_source` of events that the HTTP gateway publishes."""
WORKER_SOURCE: Final = "/darkroom/worker"
"""The `ce_source` of events that a worker publishes."""

OFFSET_METADATA_BYTES_MAX: Final = 4096
"""The most that a worker writes beside an offset (`darkroom.consumer.core.offset_map`): Kafka's default bound."""

DEFAULT_TENANT: Final = "default"
"""The tenant of a request that names none."""

IDENTITY_PATTERN: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
"""What a request id and a tenant look like: they become parts of object keys."""
ADAPTER_NAME_CHARACTERS_MAX: Final = 128
ADAPTER_NAME_PATTERN: Final = r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,127}$"
"""What an adapter's name looks like: what its file is called, without the ending, in the store or in a folder."""
RECIPE_NAME_PATTERN: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"

_IDENTITY = re.compile(IDENTITY_PATTERN)
_ADAPTER_NAME = re.compile(ADAPTER_NAME_PATTERN)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXTENSION = re.compile(r"[a-z0-9]{1,8}")
_PICTURE_NAME = re.compile(r"[0-9]{1,4}-[0-9a-f]{16}\.[a-z0-9]{1,8}")

RESULT_NAME: Final = "result.json"
REQUEST_NAME: Final = "request.json"
CALLBACK_NAME: Final = "callback.json"
UPLOADS: Final = frozenset({"pose", "init", "mask"})
"""The stems of the names under which the pictures are stored that are uploaded with a request."""

CONTENT_TYPES: Final[dict[str, str]] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
"""The content type of each output format."""
EXTENSIONS: Final[dict[str, str]] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
"""The file extension of each output format."""


def is_identity(text: object) -> bool:
    """Return whether `text` can be a request id or a tenant."""
    return isinstance(text, str) and _IDENTITY.fullmatch(text) is not None


def is_adapter_name(text: str) -> bool:
    """Return True where a request can name an adapter so."""
    return _ADAPTER_NAME.fullmatch(text) is not None


def stand_in_tenant(unusable: str) -> str:
    """The tenant under which a request is refused whose own tenant cannot be used.

    A request id that can be read is owed a completion. Naming the `default` tenant in it would take the id
    from that tenant, so the outcome goes to a name of its own: the same text always gives the same name.
    """
    digest = hashlib.sha256(unusable.encode("utf-8", "backslashreplace")).hexdigest()
    return f"unusable-{digest[:16]}"


def image_key(tenant: str, request_id: str, index: int, sha256: str, extension: str, *, prefix: str = "") -> str:
    """The key of image `index`: `{prefix}{tenant}/{request_id}/{index}-{first 16 of sha256}.{extension}`.

    `sha256` is the 64 hexadecimal digits over the picture's bytes. Because they are in the key, bytes that were
    published can never be replaced by a late writer. Raises `ValueError` for parts that cannot be in a key.
    """
    if index < 0:
        raise ValueError(f"an image's index is 0 or more, not {index}")
    if not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 must be 64 lower-case hexadecimal digits")
    return f"{prefix}{_folder(tenant, request_id)}/{index}-{sha256[:16]}.{_extension(extension)}"


def result_key(tenant: str, request_id: str, *, prefix: str = "") -> str:
    """The key of the decided outcome. Whoever puts it first with `If-None-Match: *` decides the request."""
    return f"{prefix}{_folder(tenant, request_id)}/{RESULT_NAME}"


def request_key(tenant: str, request_id: str, *, prefix: str = "") -> str:
    """The key of the gateway's claim: the request as it was accepted over HTTP."""
    return f"{prefix}{_folder(tenant, request_id)}/{REQUEST_NAME}"


def callback_key(tenant: str, request_id: str, *, prefix: str = "") -> str:
    """Return the key of a callback's dead letter: what could not be delivered, to whom, and why."""
    return f"{prefix}{_folder(tenant, request_id)}/{CALLBACK_NAME}"


def upload_key(field: str, tenant: str, request_id: str, extension: str, *, prefix: str = "") -> str:
    """The key of a picture that was uploaded with a request for one of its fields, such as `pose` or `init`."""
    return f"{prefix}{_folder(tenant, request_id)}/{field}.{_extension(extension)}"


def tenant_folder(tenant: str, *, prefix: str = "") -> str:
    """Return what the keys of all objects of a tenant begin with. Raises `ValueError` as `image_key` does."""
    return f"{prefix}{_part(tenant, 'tenant')}/"


def request_folder(tenant: str, request_id: str, *, prefix: str = "") -> str:
    """Return what the keys of all objects of a request begin with. Raises `ValueError` as `image_key` does."""
    return f"{prefix}{_folder(tenant, request_id)}/"


def is_picture_name(name: str) -> bool:
    """Return whether an object of this name in a request's folder is a picture that a worker stored (`image_key`)."""
    return _PICTURE_NAME.fullmatch(name) is not None


def is_upload_name(name: str) -> bool:
    """Return whether an object of this name in a request's folder is a picture that was uploaded with it."""
    stem, dot, extension = name.partition(".")
    return bool(dot) and stem in UPLOADS and _EXTENSION.fullmatch(extension) is not None


def _folder(tenant: str, request_id: str) -> str:
    return f"{_part(tenant, 'tenant')}/{_part(request_id, 'request id')}"


def _part(text: str, called: str) -> str:
    if not is_identity(text):
        raise ValueError(
            f"the {called} cannot be part of an object key: 1-128 of A-Za-z0-9._-, not starting with a dot"
        )
    return text


def _extension(extension: str) -> str:
    if not _EXTENSION.fullmatch(extension):
        raise ValueError("a file extension is 1-8 of a-z0-9, without a dot")
    return extension
