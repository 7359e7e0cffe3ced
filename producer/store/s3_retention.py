"""Has a bucket's lifecycle rule remove our old objects, where the bucket or a prefix is ours; synchronous.

A rule may be set in a bucket that Darkroom made, which its tag says, and in any other only where `s3.retention_days`
was set and a prefix confines the rule to our objects. The rules of others are kept byte for byte (`lifecycle`). S3 has
no conditional write of the document: it is read just before, and once more after to see that nobody came between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

import structlog
import urllib3
from minio.error import MinioException, S3Error

from darkroom.producer.store.lifecycle import (
    NO_RULES,
    RETENTION_RULE,
    LifecycleDocument,
    LifecycleUnreadable,
    read_lifecycle,
)
from darkroom.producer.store.s3_answers import told_by
from darkroom.producer.store.s3_sending import Sending
from darkroom.schemas.settings import S3Settings

log = structlog.get_logger(__name__)

MADE_BY: Final = ("made-by", "darkroom")
"""The tag of a bucket that Darkroom made. An owner who sets it hands the whole bucket over."""
_LIFECYCLE: Final = {"lifecycle": ""}
_TAGGING: Final = {"tagging": ""}
_NONE_YET: Final = "NoSuchLifecycleConfiguration"
_UNKNOWN: Final = frozenset({"NotImplemented", "MethodNotAllowed", "XNotImplemented"})
_KEPT_HEADERS: Final = ("x-amz-transition-default-minimum-object-size",)
"""It is answered beside the document, and a put without it sets it back to its default."""
_LOOKS_AFTER: Final = 4
_PAUSE_S: Final = 0.25
"""S3 may show the former document for a moment after a put."""


class Retention(NamedTuple):
    """Rules by which the bucket removes old objects of ours, in sentences."""

    is_kept: bool
    """Whether some rule removes them."""
    says: str
    remedy: str = ""
    """What to do; empty where nothing has to be."""
    is_known: bool = True
    """False where the keys may not look: whoever runs `darkroom init` may."""


def keep_for(sending: Sending, s3: S3Settings, retention_days: int, *, made: bool) -> Retention:
    """Set our rule where it may be set. Writes nothing where it may not, or where what stands cannot be read.

    `made` says that this process made the bucket just now. Raises nothing of the store's: a missing rule costs space,
    and no request fails for it.
    """
    try:
        document, headers = _read(sending, s3.bucket)
        ours = document.retention_rule(s3.prefix)
        if ours is not None and ours.is_enabled and ours.days == retention_days:
            return Retention(True, _in_force(s3, retention_days))
        if made and not document.rules:
            _mark_as_made(sending, s3.bucket)
            owned = True
        else:
            owned = _is_tagged(sending, s3.bucket)
        if owned or (s3.is_retention_asked_for and s3.prefix):
            return _write(sending, s3, document, headers, retention_days)
        return _left_alone(s3, document, retention_days)
    except LifecycleUnreadable as error:
        says = f"The lifecycle rules of the bucket {s3.bucket} were left as they are: {error}."
        return Retention(False, says, _by_hand(s3, retention_days))
    except S3Error as error:
        return _refused(s3, error, retention_days)
    except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:
        says = f"The lifecycle rules of the bucket {s3.bucket} were not to be had ({type(error).__name__})."
        return Retention(False, says, _by_hand(s3, retention_days))


def look_at(sending: Sending, s3: S3Settings, retention_days: int) -> Retention:
    """Say what `keep_for` would find, and write nothing."""
    try:
        document, _ = _read(sending, s3.bucket)
        ours = document.retention_rule(s3.prefix)
        if ours is not None and ours.is_enabled and ours.days == retention_days:
            return Retention(True, _in_force(s3, retention_days))
        if _is_tagged(sending, s3.bucket) or (s3.is_retention_asked_for and s3.prefix):
            says = f"`darkroom init` will set the rule that removes what is older than {retention_days} days."
            return Retention(True, says)
        return _left_alone(s3, document, retention_days)
    except LifecycleUnreadable as error:
        says = f"The lifecycle rules of the bucket {s3.bucket} cannot be read: {error}."
        return Retention(False, says, _by_hand(s3, retention_days))
    except S3Error as error:
        return _refused(s3, error, retention_days)
    except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:
        says = f"The lifecycle rules of the bucket {s3.bucket} were not to be had ({type(error).__name__})."
        return Retention(False, says, _by_hand(s3, retention_days))


def _read(sending: Sending, bucket: str) -> tuple[LifecycleDocument, Mapping[str, str]]:
    try:
        answer = sending.ask("GET", bucket, _LIFECYCLE)
    except S3Error as error:
        if error.code == _NONE_YET:
            return NO_RULES, {}
        raise
    kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
    return read_lifecycle(answer.data), kept


def _write(
    sending: Sending, s3: S3Settings, before: LifecycleDocument, headers: Mapping[str, str], days: int
) -> Retention:
    content = before.with_retention(s3.prefix, days)
    sending.ask("PUT", s3.bucket, _LIFECYCLE, content, headers)
    others = before.others(s3.prefix) if before.rules else []
    for attempt in range(_LOOKS_AFTER):
        time.sleep(_PAUSE_S * attempt)
        after, _ = _read(sending, s3.bucket)
        ours = after.retention_rule(s3.prefix)
        kept = others == (after.others(s3.prefix) if after.rules else [])
        if kept and ours is not None and ours.days == days:
            return Retention(True, _in_force(s3, days))
    log.warning(
        "the bucket's lifecycle document was not found as it was written",
        bucket=s3.bucket,
        before=before.content.decode("utf-8", "replace"),
        written=content.decode("utf-8", "replace"),
        after=after.content.decode("utf-8", "replace"),
    )
    says = (
        f"Our lifecycle rule was written to the bucket {s3.bucket}, and what the store shows now is not what was "
        "written: somebody else changed it in the same moment, or the store keeps less than it takes."
    )
    return Retention(False, says, "Compare the rules with those of before, which the log has.")


def _mark_as_made(sending: Sending, bucket: str) -> None:
    """Tag a bucket that was just made, so that later starts know it. A store may have no tags."""
    name, value = MADE_BY
    tags = f"<Tagging><TagSet><Tag><Key>{name}</Key><Value>{value}</Value></Tag></TagSet></Tagging>"
    try:
        if not _tags(sending, bucket):
            sending.ask("PUT", bucket, _TAGGING, tags.encode())
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        log.info("the bucket could not be tagged as made by Darkroom", bucket=bucket, error=str(error))


def _tags(sending: Sending, bucket: str) -> dict[str, str]:
    from xml.etree import ElementTree

    try:
        content = sending.ask("GET", bucket, _TAGGING).data
        if b"<!DOCTYPE" in content:
            return {}
        tags = ElementTree.fromstring(content)  # noqa: S314 - it declares no entities
    except S3Error as error:
        if error.code in ("NoSuchTagSet", "NoSuchTagSetError"):
            return {}
        raise
    except ElementTree.ParseError:
        return {}
    named = [
        {part.tag.rpartition("}")[2]: part.text or "" for part in tag}
        for tag in tags.iter()
        if tag.tag.rpartition("}")[2] == "Tag"
    ]
    return {tag.get("Key", ""): tag.get("Value", "") for tag in named}


def _is_tagged(sending: Sending, bucket: str) -> bool:
    """Whether the tag is there. A store that does not say has none: then nothing is changed."""
    name, value = MADE_BY
    try:
        return _tags(sending, bucket).get(name) == value
    except (MinioException, urllib3.exceptions.HTTPError):
        return False


def _in_force(s3: S3Settings, days: int) -> str:
    where = f"below {s3.prefix} in the bucket {s3.bucket}" if s3.prefix else f"of the bucket {s3.bucket}"
    return f"The lifecycle rule {RETENTION_RULE} removes objects {where} after {days} days."


def _left_alone(s3: S3Settings, document: LifecycleDocument, days: int) -> Retention:
    others = document.expiring(s3.prefix)
    if others is not None:
        name = f"the rule {others.id}" if others.id else "a rule without an id"
        says = f"The bucket {s3.bucket} was there before; {name} of its lifecycle removes our objects."
        if others.id.startswith(RETENTION_RULE) and others.scope == "":
            return Retention(
                True,
                f"{says} It removes every other object of the bucket too.",
                f"Where others have objects in it, take that rule away (`mc ilm rule rm --id {others.id} "
                f"ALIAS/{s3.bucket}`). {_by_setting(s3)} {_by_hand(s3, days)}",
            )
        return Retention(True, says)
    says = f"The bucket {s3.bucket} was there before, so no lifecycle rule was set in it: our objects stay for ever."
    return Retention(False, says, f"{_by_setting(s3)} {_by_hand(s3, days)}")


def _refused(s3: S3Settings, error: S3Error, days: int) -> Retention:
    told = told_by(error.response) if error.response is not None else None
    if error.code in _UNKNOWN:
        says = f"The object store at {s3.endpoint} takes no lifecycle rule ({error.code})."
        return Retention(False, says, "Remove old objects by other means, where they take up too much.")
    said = f"{error.code}: {told.message}" if told is not None and told.message else error.code
    says = f"The lifecycle rules of the bucket {s3.bucket} were left as they are ({said})."
    is_forbidden = error.code == "AccessDenied"
    rights = "Let the keys do s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration."
    return Retention(False, says, f"{rights if is_forbidden else ''} {_by_hand(s3, days)}".strip(), not is_forbidden)


def _by_setting(s3: S3Settings) -> str:
    wanted = [
        *([] if s3.prefix else ["DARKROOM_S3__PREFIX"]),
        *([] if s3.is_retention_asked_for else ["DARKROOM_S3__RETENTION_DAYS"]),
    ]
    return f"Set {' and '.join(wanted)}, and run `darkroom init`." if wanted else "Run `darkroom init`."


def _by_hand(s3: S3Settings, days: int) -> str:
    """How the owner sets the rule, or hands the bucket over. A rule for a whole bucket is nothing to be advised."""
    name, value = MADE_BY
    rule = (
        f"Or add the rule yourself: `mc ilm rule add --expire-days {days} --prefix {s3.prefix} ALIAS/{s3.bucket}`, in "
        f"XML <Rule><ID>{RETENTION_RULE}</ID><Filter><Prefix>{escape(s3.prefix)}</Prefix></Filter>"
        f"<Status>Enabled</Status><Expiration><Days>{days}</Days></Expiration></Rule>. "
        if s3.prefix
        else ""
    )
    return (
        f"{rule}Or, where the whole bucket is Darkroom's, add the tag {name}={value} to those it has (where it has "
        f'none: `mc tag set ALIAS/{s3.bucket} "{name}={value}"`), and run `darkroom init`.'
    )
