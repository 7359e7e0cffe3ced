"""The object store over the network, on the minio SDK: any server that speaks S3.

The SDK is synchronous. Its calls run on threads of this object's own, `s3.threads` at most, over connections that
are kept; the event loop only waits. So that nothing waits for ever, each try has a connect and a read time-out and
there are `s3.attempts` tries, with short pauses between them.

The SDK has no public way to send `If-None-Match` with a put. A put is signed (which needs no network, because the
region is given) and sent with that header through the same connections. The server answers (RFC 9110 section 13.1.2;
Amazon S3, "Conditional writes"): 200 written; 412 an object stands; 409 another conditional write of this key is
under way, try again.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import urllib3
from minio.datatypes import Object
from minio.error import MinioException, S3Error, ServerError
from minio.helpers import MIN_PART_SIZE

from producer.results.minio_bucket import keep_for, make_bucket, prove_conditional_puts
from producer.results.minio_client import PAUSE_S, TRY_AGAIN, connect, signer
from producer.results.minio_errors import is_absent, translated, unavailable
from producer.results.objects import BucketForbidden, ObjectStat, ObjectTooLarge, StoreUnavailable
from schemas.settings import S3Settings

_LIST_PAGE: Final = 1000
"""What one list request returns at most (S3 API)."""
_SIGNED_FOR: Final = timedelta(minutes=15)
"""A signed put is used at once; this is room for clocks that differ."""
_WRITTEN, _STANDS, _CONFLICT = (200, 204), 412, 409

ResultT = TypeVar("ResultT")


class MinioObjects:
    """`producer.results.objects.Objects` on an S3 server. Safe for any number of tasks of one event loop.

    Close it when done. A task that is cancelled stops waiting; the transfer it began ends in its own time.
    """

    def __init__(self, s3: S3Settings) -> None:
        """Connects to nothing yet. Raises `SettingsError` for authorities to trust that cannot be loaded."""
        self._s3 = s3
        self._client, self._http = connect(s3)
        self._signer = signer(s3)
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
        """As the protocol says."""
        return self._s3.bucket

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        """As the protocol says."""
        return await self._run(self._get, self._readable(bucket), key, bytes_max)

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """As the protocol says."""
        await self._run(self._put, key, content, content_type)

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        """As the protocol says."""
        return await self._run(self._put_if_absent, key, content, content_type)

    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        """As the protocol says."""
        return await self._run(self._stat, self._readable(bucket), key)

    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """As the protocol says; at `s3.public_endpoint` where one is set."""
        name = self._readable(bucket)
        with translated(self._s3, name):
            return self._signer.presigned_get_object(name, key, timedelta(seconds=valid_s))

    async def delete(self, key: str) -> None:
        """As the protocol says."""
        await self._run(self._delete, key)

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """As the protocol says; fetched a page at a time as it is read."""
        listed = self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
        while page := await self._run(self._page, listed):
            for key in page:
                yield key

    async def ensure_bucket(self, retention_days: int) -> bool:
        """Make the bucket if it is missing, with a rule that removes objects after so many days. True if made.

        A server without lifecycle rules is worked with all the same, and logged: there objects have to be removed
        by other means. Raises `StoreUnsuitable` where a conditional put does not keep the first writer's object.
        """
        return await self._run(self._ensure_bucket, retention_days)

    # --- On the threads ----------------------------------------------------------------------------------

    async def _run(self, call: Callable[..., ResultT], *arguments: Any) -> ResultT:
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        except RuntimeError as error:  # the threads take no more work
            raise StoreUnavailable("The object store's client was closed. Nothing more can be sent.") from error
        return await answer

    def _readable(self, bucket: str | None) -> str:
        if bucket is None:
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
        with translated(self._s3, self.bucket):
            part_size = max(len(content), MIN_PART_SIZE)  # one request, whatever the size
            self._client.put_object(
                self.bucket, key, io.BytesIO(content), len(content), content_type, part_size=part_size
            )

    def _put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        headers = {"If-None-Match": "*", "Content-Type": content_type}
        with translated(self._s3, self.bucket):
            for attempt in range(1, self._s3.attempts + 1):
                if attempt > 1:
                    time.sleep(PAUSE_S * 2 ** (attempt - 2))
                url = self._client.presigned_put_object(self.bucket, key, _SIGNED_FOR)
                try:
                    # urllib3's own tries would write the address, and so the signature, into its log and its error.
                    response = self._http.request("PUT", url, body=content, headers=headers, retries=False)
                except urllib3.exceptions.HTTPError:
                    if attempt == self._s3.attempts:
                        raise
                    continue
                if response.status in _WRITTEN:
                    return True
                if response.status == _STANDS:
                    return False
                if response.status not in (_CONFLICT, *TRY_AGAIN):
                    break
            if response.status == _CONFLICT:
                raise unavailable(self._s3, self.bucket, f"{key} is being written by others without end")
            raise _error_of(response, self.bucket, key)

    def _delete(self, key: str) -> None:
        with translated(self._s3, self.bucket):
            self._client.remove_object(self.bucket, key)

    def _page(self, listed: Iterator[Object]) -> list[str]:
        with translated(self._s3, self.bucket):
            return [one.object_name or "" for one in itertools.islice(listed, _LIST_PAGE)]

    def _ensure_bucket(self, retention_days: int) -> bool:
        with translated(self._s3, self.bucket):
            made = make_bucket(self._client, self.bucket)
            keep_for(self._client, self.bucket, retention_days)
            prove_conditional_puts(self.bucket, self._put_if_absent)
            return made


def _error_of(response: urllib3.BaseHTTPResponse, bucket: str, key: str) -> MinioException:
    """The SDK's error for an answer to a request that was sent past it."""
    if response.data and "xml" in response.headers.get("Content-Type", ""):
        return S3Error.fromxml(response)
    if response.status == 403:
        return S3Error(response, "AccessDenied", "Access denied", f"/{bucket}/{key}", None, None, bucket, key)
    return ServerError(f"server failed with HTTP status code {response.status}", response.status)
