"""Translates what the minio SDK and urllib3 raise into this product's errors, here and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import MinioException, S3Error, ServerError

from darkroom.producer.kafka.tls import STORE, trouble_of
from darkroom.producer.store.objects import BucketForbidden, ObjectsError, StoreUnavailable
from darkroom.producer.store.s3_answers import told_by
from darkroom.producer.store.s3_refusals import Doing, Refusal, words_for
from darkroom.schemas.errors import bounded
from darkroom.schemas.settings import S3Settings

__all__ = ["Doing", "is_absent", "translated", "unavailable"]

_NO_OBJECT: Final = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_NO_BUCKET: Final = "NoSuchBucket"
_SAID_CHARACTERS_MAX: Final = 300
_ADDRESS: Final = "DARKROOM_S3__ENDPOINT"


def is_absent(error: S3Error, *, own_bucket: bool) -> bool:
    """Return whether the error says that there is no such object.

    Somebody else's bucket that does not exist holds no object; the own one that does not exist is a fault.
    """
    return error.code in _NO_OBJECT or (error.code == _NO_BUCKET and not own_bucket)


@contextlib.contextmanager
def translated(s3: S3Settings, bucket: str, doing: Doing = Doing.READ) -> Iterator[None]:
    """Let nothing out of a call about `bucket` but the errors of `darkroom.producer.store.objects`."""
    try:
        yield
    except ObjectsError:
        raise
    except S3Error as error:
        raise _of_answer(s3, bucket, _refusal(error), doing) from error
    except ServerError as error:
        raise _of_answer(s3, bucket, Refusal(error.status_code, f"HTTP {error.status_code}"), doing) from error
    except (MinioException, urllib3.exceptions.HTTPError, ParseError, OSError, ValueError) as error:
        trouble = trouble_of(STORE, error)
        if trouble is None:
            raise unavailable(s3, bucket, f"{type(error).__name__}: {error}") from error
        raise StoreUnavailable(
            f"The object store at {s3.endpoint} was not reached for the bucket {bucket}: {trouble.what}.",
            trouble.remedy,
        ) from error


def unavailable(s3: S3Settings, bucket: str, said: str) -> StoreUnavailable:
    """The error for a store that was not reached or whose answer is of no use."""
    return StoreUnavailable(
        f"The object store at {s3.endpoint} did not do its part for the bucket {bucket} "
        f"({bounded(said, _SAID_CHARACTERS_MAX)}).",
        f"Check that it runs and that {_ADDRESS} is its address.",
    )


def _of_answer(s3: S3Settings, bucket: str, refusal: Refusal, doing: Doing) -> StoreUnavailable | BucketForbidden:
    words = words_for(refusal, s3, bucket, doing)
    if bucket != s3.bucket and words.is_about_bucket:
        return BucketForbidden(bucket, words.what)
    return StoreUnavailable(words.what, words.remedy)


def _refusal(error: S3Error) -> Refusal:
    response = error.response
    if response is None:
        return Refusal(0, error.code or "", error.message or "")
    told = told_by(response)
    headers = response.headers
    return Refusal(
        response.status,
        told.code if headers.get("x-minio-error-code") else error.code or told.code,
        told.message,
        told.region,
        headers.get("Date", ""),
        headers.get("Location", ""),
    )
