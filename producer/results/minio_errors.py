"""What the minio SDK and urllib3 raise, as this product's errors: the one place where they are translated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import MinioException, S3Error

from producer.results.objects import BucketForbidden, ObjectsError, StoreUnavailable
from producer.tls import STORE, trouble_of
from schemas.errors import bounded
from schemas.settings import S3Settings

_NO_OBJECT: Final = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_NO_BUCKET: Final = "NoSuchBucket"
_REFUSED: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccountProblem"})
_SAID_CHARACTERS_MAX: Final = 300
_ADDRESS: Final = "DARKROOM_S3__ENDPOINT"


def is_absent(error: S3Error, *, own_bucket: bool) -> bool:
    """Whether the error says that there is no such object.

    Somebody else's bucket that does not exist holds no object; the own one that does not exist is a fault.
    """
    return error.code in _NO_OBJECT or (error.code == _NO_BUCKET and not own_bucket)


@contextlib.contextmanager
def translated(s3: S3Settings, bucket: str) -> Iterator[None]:
    """Let nothing out of a call about `bucket` but the errors of `producer.results.objects`."""
    try:
        yield
    except ObjectsError:
        raise
    except S3Error as error:
        raise _of_answer(s3, bucket, error) from error
    except (MinioException, urllib3.exceptions.HTTPError, ParseError, OSError, ValueError) as error:
        trouble = trouble_of(STORE, error)
        if trouble is None:
            raise unavailable(s3, bucket, f"{type(error).__name__}: {error}") from error
        raise StoreUnavailable(
            f"The object store at {s3.endpoint} was not reached for the bucket {bucket}: {trouble.what}. "
            f"{trouble.remedy}"
        ) from error


def unavailable(s3: S3Settings, bucket: str, said: str) -> StoreUnavailable:
    """The error for a store that was not reached or whose answer is of no use."""
    return StoreUnavailable(
        f"The object store at {s3.endpoint} did not do its part for the bucket {bucket} "
        f"({bounded(said, _SAID_CHARACTERS_MAX)}). Check that it runs and that {_ADDRESS} is its address."
    )


def _of_answer(s3: S3Settings, bucket: str, error: S3Error) -> StoreUnavailable | BucketForbidden:
    if error.code in _REFUSED:
        if bucket != s3.bucket:
            return BucketForbidden(bucket)
        return StoreUnavailable(
            f"The object store at {s3.endpoint} refuses us the bucket {bucket} ({error.code}). Check "
            "DARKROOM_S3__ACCESS_KEY and DARKROOM_S3__SECRET_KEY and what they are allowed to do."
        )
    if error.code == "RequestTimeTooSkewed":
        return StoreUnavailable(
            f"The object store at {s3.endpoint} refuses us because its clock and ours differ. Set both by NTP."
        )
    if error.code == _NO_BUCKET:
        return StoreUnavailable(
            f"The object store at {s3.endpoint} has no bucket {bucket}. Make it, or correct DARKROOM_S3__BUCKET; a "
            "worker that starts makes it where it may."
        )
    return unavailable(s3, bucket, f"{error.code}: {error.message}")
