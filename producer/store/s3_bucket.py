"""Readies a bucket: it exists, and its conditional puts decide. Synchronous, on the minio SDK."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from minio import Minio
from minio.error import S3Error

from darkroom.producer.store.objects import ObjectsError, StoreUnsuitable
from darkroom.producer.store.s3_sending import Sending

PROBE_KEY: Final = ".darkroom/conditional-put-probe"
"""Where a conditional put is tried, after the prefix. Tenants never begin with a dot, so it is no request's key."""
RACE_KEYS: Final = ".darkroom/conditional-put-race"
RACES: Final = 12
"""Stores that check and then write let both of a pair win in about half of the races: 1 in 4,000 passes twelve."""
RACING_S_MAX: Final = 15.0
"""After so long no further pair is begun: a slow store takes seconds for each."""

_MADE_ALREADY: Final = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})

PutIfAbsent = Callable[[str, bytes, str], bool]


def make_bucket(client: Minio, sending: Sending, bucket: str, prefix: str) -> bool:
    """Make the bucket unless it is there. True if this call made it. Raises what the SDK raises."""
    if is_there(client, sending, bucket, prefix):
        return False
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code in _MADE_ALREADY:
            with contextlib.suppress(S3Error):  # then the name is somebody else's, as the first error says
                if is_there(client, sending, bucket, prefix):
                    return False  # another process was quicker
        raise
    return True


def is_there(client: Minio, sending: Sending, bucket: str, prefix: str) -> bool:
    """Return whether the bucket exists. Raises what the SDK raises, with the reason of a refusal.

    The first question is a HEAD, whose answer has no body to say why it is refused: then the same right is used again
    by listing one key of ours, which is answered with a reason or, by a policy that confines listing, with success.
    """
    try:
        return client.bucket_exists(bucket)
    except S3Error:
        try:
            sending.ask("GET", bucket, {"list-type": "2", "max-keys": "1", "prefix": prefix})
        except S3Error as error:
            if error.code == "NoSuchBucket":
                return False
            raise
        return True


def prove_conditional_puts(bucket: str, prefix: str, put_if_absent: PutIfAbsent) -> None:
    """Raise `StoreUnsuitable` unless the second of two conditional puts of one key is refused.

    A server that ignores `If-None-Match` answers both with success, and two workers would both believe that they
    decided a request. The probe stays in the bucket, so that a first start beside another proves no less.
    """
    key = f"{prefix}{PROBE_KEY}"
    put_if_absent(key, b"conditional puts are tried with this object", "text/plain")
    if put_if_absent(key, b"conditional puts are ignored by this store", "text/plain"):
        raise _unsuitable(f"overwrites an object of the bucket {bucket} in spite of If-None-Match: *")


def race_conditional_puts(bucket: str, prefix: str, put_if_absent: PutIfAbsent, delete: Callable[[str], None]) -> None:
    """Raise `StoreUnsuitable` where two conditional puts of one key at the same moment both win.

    A server that looks whether the object is there and then writes it refuses a later put and lets those of one moment
    through. What the races leave is removed where the keys may; else the bucket's lifecycle rule does.
    """
    run, until = uuid.uuid4().hex, time.monotonic() + RACING_S_MAX
    with ThreadPoolExecutor(2, thread_name_prefix="race") as threads:
        for number in range(RACES):
            if time.monotonic() > until:
                return
            key, start = f"{prefix}{RACE_KEYS}/{run}-{number}", threading.Barrier(2)

            def put(content: bytes, key: str = key, start: threading.Barrier = start) -> bool:
                start.wait()
                return put_if_absent(key, content, "text/plain")

            both = [threads.submit(put, content) for content in (b"one writer", b"another writer")]
            won = [one.result() for one in both]
            with contextlib.suppress(ObjectsError):
                delete(key)
            if all(won):
                raise _unsuitable(f"lets two writers of one moment both win a put with If-None-Match: * in {bucket}")


def _unsuitable(what: str) -> StoreUnsuitable:
    return StoreUnsuitable(
        f"The object store {what}, so nothing would keep two workers from deciding one request differently.",
        "Use a store with conditional writes that hold in a race, as current MinIO, SeaweedFS (4.30 and later) and "
        "Amazon S3 have; versitygw from 1.8.0 on.",
    )
