"""The protocol that this product needs of an object store, and the errors that every store raises alike.

One method decides outcomes: `put_if_absent`. Of all the writers of a key, wherever they run, exactly one wins.

    Exception
    └── ObjectsError
        ├── StoreUnavailable   infrastructure: not reached, refused us, answered nonsense; nobody's request is at fault
        │   └── StoreUnsuitable   the store cannot do what is needed of it, and waiting will not change that
        ├── ObjectTooLarge     an object is larger than the caller reads
        └── BucketForbidden    a bucket that this deployment does not read from
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class ObjectsError(Exception):
    """Whatever an object store raises: one sentence with the remedy."""


class StoreUnavailable(ObjectsError):  # noqa: N818 - named for what happened
    """The store was not reached, timed out, failed, or refused this deployment its own bucket."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what} {remedy}".rstrip())
        self.what = what
        """What is wrong, as a sentence."""
        self.remedy = remedy
        """What to do about it; empty where `what` says it."""


class StoreUnsuitable(StoreUnavailable):
    """The store lacks what decides outcomes: a put with `If-None-Match: *` that only the first writer wins."""


class ObjectTooLarge(ObjectsError):  # noqa: N818 - as above
    """An object has more bytes than the caller was ready to read. Nothing of it was returned."""

    def __init__(self, bucket: str, key: str, bytes_max: int) -> None:
        super().__init__(f"The object {bucket}/{key} has more than the {bytes_max} bytes that are read of it.")
        self.bucket = bucket
        self.key = key
        self.bytes_max = bytes_max


class BucketForbidden(ObjectsError):  # noqa: N818 - as above
    """A bucket that is not among the allowed ones, or that the store does not let these credentials read."""

    def __init__(self, bucket: str, why: str | None = None) -> None:
        """`why` is what the store says against reading a bucket that is allowed, as a sentence."""
        super().__init__(
            f"The bucket {bucket} is not one that this deployment reads from. "
            + (f"{why} " if why else "")
            + "Put the object in an allowed bucket, or add the bucket to DARKROOM_S3__ALLOWED_BUCKETS and let the "
            "credentials read it."
        )
        self.bucket = bucket


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Size and type of an object, as the store tells them without sending it."""

    size_bytes: int
    etag: str
    """Changes with the content; no digest to rely on."""


def inside(prefix: str, key: str) -> str:
    """Return the key. Raise `ValueError` where it does not begin with the prefix: the object would not be ours."""
    if not key.startswith(prefix):
        raise ValueError(f"the key {key!r} is outside of the prefix {prefix!r}")
    return key


class Objects(Protocol):
    """One bucket to write to, and some to read from.

    Keys are those of `darkroom.schemas.names`, whole: `prefix` is a part of them. Nothing is written, removed or
    listed, and no object of the own bucket is read by key alone, outside of the prefix: such a key is a mistake of
    ours, and a `ValueError`. Every method may raise `StoreUnavailable`; after that nothing is known of
    whether a write took place, and repeating it is safe. Cancelling a call may leave its write to be done all the same.
    """

    @property
    def bucket(self) -> str:
        """The deployment's own bucket."""

    @property
    def prefix(self) -> str:
        """Return the beginning of each of our keys: empty, or it ends in a slash."""

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        """An object's bytes; None where there is none. `bucket` is the own one unless given.

        Raises `ObjectTooLarge` without reading further than `bytes_max`, and `BucketForbidden`.
        """

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Write an object of the own bucket, in place of what was there."""

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        """Write an object of the own bucket unless there is one. True where this call is known to have won.

        False says only that an object stands. It may be this caller's own: a put whose answer was lost is sent
        again, and the second finds what the first wrote. So whoever gets False reads what stands and compares.
        """

    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        """Size and etag of an object; None where there is none. Raises `BucketForbidden`."""

    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """An address from which anybody may get the object for so many seconds, whether it is there or not.

        Signed here, without asking the store. Raises `BucketForbidden`.
        """

    def presigned_head(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """The same for what the store says of the object: a signature holds for one method alone."""

    async def delete(self, key: str) -> None:
        """Remove an object of the own bucket. Nothing happens where there is none."""

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """The keys of the own bucket that begin with `prefix`, in order of their UTF-8 bytes."""
