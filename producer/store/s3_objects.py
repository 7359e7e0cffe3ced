"""The object store over the network, on the minio SDK: any server that speaks S3.

The SDK is synchronous. Its calls run on threads of this object's own, `s3.threads` at most, over connections that
are kept; the event loop only waits. So that nothing waits for ever, each try has a connect and a read time-out and
there are `s3.attempts` tries, with short pauses between them.

The SDK has no public way to send `If-None-Match` with a put, nor a checksum: puts are signed and sent beside it
(`minio_sending`). The server answers a conditional one (RFC 9110 section 13.1.2; Amazon S3, "Conditional writes"): 200
written; 412 an object stands; 409 another conditional write of this key is under way, try again.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import structlog
from minio.datatypes import Object
from minio.error import S3Error

from darkroom.producer.store.identities import identity_of
from darkroom.producer.store.objects import BucketForbidden, ObjectStat, ObjectTooLarge, StoreUnavailable, inside
from darkroom.producer.store.s3_bucket import is_there, make_bucket, prove_conditional_puts, race_conditional_puts
from darkroom.producer.store.s3_client import connect, signer
from darkroom.producer.store.s3_errors import Doing, is_absent, translated, unavailable
from darkroom.producer.store.s3_retention import Retention, keep_for, look_at
from darkroom.producer.store.s3_sending import BusyWithoutEnd, Sending
from darkroom.schemas.settings import S3Settings

_LIST_PAGE: Final = 1000
"""What one list request returns at most (S3 API)."""

log = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")


class BucketState(NamedTuple):
    """State of a bucket after `ready_bucket`."""

    made: bool
    """Whether this call made it."""
    retention: Retention


class MinioObjects:
    """`darkroom.producer.store.objects.Objects` on an S3 server. Safe for any number of tasks of one event loop.

    Close it when done. A task that is cancelled stops waiting; the transfer it began ends in its own time.
    """

    def __init__(self, s3: S3Settings) -> None:
        """Connects to nothing yet. Raises `SettingsError` for authorities to trust that cannot be loaded."""
        self._s3 = s3
        self._identity = identity_of(s3)
        self._client, self._http = connect(s3, self._identity)
        self._sending = Sending(s3, self._identity, self._client, self._http)
        self._signer = signer(s3, self._identity)
        self._threads = ThreadPoolExecutor(s3.threads, thread_name_prefix="s3")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take no more work and close the connections when what was begun is done. Does not wait for it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        return self._s3.bucket

    @property
    def prefix(self) -> str:
        """Return the beginning of each of our keys."""
        return self._s3.prefix

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        """Return an object's content. Raises as `Objects.get` does."""
        return await self._run(self._get, self._readable(key, bucket), key, bytes_max)

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Write an object, over one that is there."""
        await self._run(self._put, inside(self.prefix, key), content, content_type)

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        """Write an object unless one is there, and return whether it was written."""
        return await self._run(self._put_if_absent, inside(self.prefix, key), content, content_type)

    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        """Return an object's size and type, or None where there is none."""
        return await self._run(self._stat, self._readable(key, bucket), key)

    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """Return an address to read an object at, on `s3.public_endpoint` where one is set."""
        return self._presigned("GET", key, bucket, valid_s)

    def presigned_head(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """Return an address to ask for an object's headers at, on `s3.public_endpoint` where one is set."""
        return self._presigned("HEAD", key, bucket, valid_s)

    async def delete(self, key: str) -> None:
        """Delete an object. One that is not there is no error."""
        await self._run(self._delete, inside(self.prefix, key))

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix, fetched a page at a time as they are read."""
        listed = self._client.list_objects(self.bucket, prefix=inside(self.prefix, prefix), recursive=True)
        while page := await self._run(self._page, listed):
            for key in page:
                yield key

    async def ensure_bucket(self, retention_days: int) -> bool:
        """Ready the bucket as `ready_bucket` does, without a race, and log where old objects stay. True if made."""
        made, retention = await self.ready_bucket(retention_days, race=False)
        if not retention.is_kept or retention.remedy:
            say = log.warning if retention.is_known else log.info
            say(
                "the lifecycle of the bucket is not ours to set: old objects have to be removed by other means",
                bucket=self.bucket,
                retention_days=retention_days,
                says=retention.says,
                remedy=retention.remedy,
            )
        return made

    async def ready_bucket(self, retention_days: int, *, race: bool) -> BucketState:
        """Make the bucket if it is missing, and see to what decides outcomes there and to what removes old objects.

        The rule that removes objects after so many days is set in a bucket that Darkroom made, and in another where
        the settings ask for it and a prefix confines it; nothing else of a bucket is ever changed. Raises
        `StoreUnsuitable` where a conditional put does not keep the first writer's object; with `race` also where two
        of one moment both win, which takes some twenty puts.
        """
        return await self._run(self._ready_bucket, retention_days, race)

    async def is_there(self) -> bool:
        """Return whether the bucket exists. Ask before the first put: some stores make the bucket."""
        return await self._run(self._is_there)

    async def try_out(self) -> bool:
        """Try all that a worker does in the bucket, which must be there, with objects below `.darkroom/`.

        False where the keys may not delete, which only a replay of dead letters has to. Raises `StoreUnavailable` for
        what the store or the keys' rights do not allow, and `StoreUnsuitable` as `ready_bucket` does.
        """
        return await self._run(self._try_out)

    async def retention(self, retention_days: int) -> Retention:
        """Return what `ready_bucket` would find of rules for old objects. Writes nothing."""
        return await self._run(look_at, self._sending, self._s3, retention_days)

    # --- On the threads ----------------------------------------------------------------------------------

    async def _run(self, call: Callable[..., ResultT], *arguments: Any) -> ResultT:
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        except RuntimeError as error:  # the threads take no more work
            raise StoreUnavailable("The object store's client was closed. Nothing more can be sent.") from error
        return await answer

    def _presigned(self, method: str, key: str, bucket: str | None, valid_s: int) -> str:
        name = self._readable(key, bucket)
        with translated(self._s3, name):
            ends = None if self._identity is None else self._identity.held().expiration
            if ends is not None:  # an address is refused once the keys that signed it have ended
                left = ends.replace(tzinfo=UTC) - datetime.now(UTC)
                valid_s = max(1, min(valid_s, int(left.total_seconds())))
            return self._signer.get_presigned_url(method, name, key, timedelta(seconds=valid_s))

    def _readable(self, key: str, bucket: str | None) -> str:
        if bucket is None:
            inside(self.prefix, key)
            return self.bucket
        if not self._s3.may_read(bucket):
            raise BucketForbidden(bucket)
        return bucket

    def _get(self, bucket: str, key: str, bytes_max: int) -> bytes | None:
        with translated(self._s3, bucket):
            response = self._absent_as_none(self._client.get_object, bucket, key)
            if response is None:
                return None
            try:
                declared = int(response.headers.get("Content-Length") or 0)
                content = b"" if declared > bytes_max else response.read(bytes_max + 1)
                if max(declared, len(content)) > bytes_max:
                    response.close()  # the rest is not read, so the connection cannot be used again
                    raise ObjectTooLarge(bucket, key, bytes_max)
                return bytes(content)
            finally:
                response.release_conn()

    def _stat(self, bucket: str, key: str) -> ObjectStat | None:
        with translated(self._s3, bucket):
            found = self._absent_as_none(self._client.stat_object, bucket, key)
            return None if found is None else ObjectStat(found.size or 0, found.etag or "")

    def _absent_as_none(self, call: Callable[[str, str], ResultT], bucket: str, key: str) -> ResultT | None:
        try:
            return call(bucket, key)
        except S3Error as error:
            if is_absent(error, own_bucket=bucket == self.bucket):
                return None
            raise
        except ValueError:
            return None  # no object can have this name: a requester wrote it

    def _put(self, key: str, content: bytes, content_type: str) -> None:
        with translated(self._s3, self.bucket, Doing.PUT):
            self._sending.put(key, content, content_type, if_absent=False)

    def _put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        with translated(self._s3, self.bucket, Doing.PUT):
            try:
                return self._sending.put(key, content, content_type, if_absent=True)
            except BusyWithoutEnd as error:
                said = f"{key} is being written by others without end"
                raise unavailable(self._s3, self.bucket, said) from error

    def _delete(self, key: str) -> None:
        with translated(self._s3, self.bucket, Doing.DELETE):
            self._client.remove_object(self.bucket, key)

    def _page(self, listed: Iterator[Object]) -> list[str]:
        with translated(self._s3, self.bucket, Doing.LIST):
            return [one.object_name or "" for one in itertools.islice(listed, _LIST_PAGE)]

    def _ready_bucket(self, retention_days: int, race: bool) -> BucketState:
        with translated(self._s3, self.bucket, Doing.MAKE):
            made = make_bucket(self._client, self._sending, self.bucket, self.prefix)
        retention = keep_for(self._sending, self._s3, retention_days, made=made)
        prove_conditional_puts(self.bucket, self.prefix, self._put_if_absent)
        if race:
            race_conditional_puts(self.bucket, self.prefix, self._put_if_absent, self._delete)
        return BucketState(made, retention)

    def _is_there(self) -> bool:
        with translated(self._s3, self.bucket, Doing.MAKE):
            return is_there(self._client, self._sending, self.bucket, self.prefix)

    def _try_out(self) -> bool:
        prove_conditional_puts(self.bucket, self.prefix, self._put_if_absent)
        race_conditional_puts(self.bucket, self.prefix, self._put_if_absent, self._delete)
        key, content = (
            f"{self.prefix}.darkroom/tried-{uuid.uuid4().hex}",
            b"what a worker does is tried with this object",
        )
        self._put(key, content, "text/plain")
        with translated(self._s3, self.bucket):
            is_listed = list(itertools.islice(self._client.list_objects(self.bucket, prefix=key), 1))
        if self._get(self.bucket, key, len(content)) != content or not is_listed:
            raise unavailable(self._s3, self.bucket, f"{key} was written and is not what is read")
        if self._get(self.bucket, f"{key}-not", 0) is not None:  # told from a refusal by a right of its own
            raise unavailable(self._s3, self.bucket, f"{key}-not was never written and is read")
        try:
            self._delete(key)
        except StoreUnavailable:
            return False
        return True
