"""Brings one object to this machine, whole or not at all.

It is written under another name, goes on where an interrupted transfer stopped, and gets its name when its size and
its digest are right: the SHA-256 of the manifest where there is one, else the MD5 that the ETag of an object put in one
piece is (Amazon S3, "Checking object integrity"). An object put in parts or encrypted with a KMS key has neither, and
its size must do.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import urllib3
from minio import Minio
from minio.error import S3Error

from darkroom.consumer.weights.listing import RemoteFile
from darkroom.inference.types import ModelError
from darkroom.producer.store.s3_client import PAUSE_S
from darkroom.schemas.settings.model_source import StorePrefix

_CHUNK_BYTES: Final = 1024 * 1024
"""At most: what has come is written at once, so that a transfer that breaks off has lost nothing."""
_PARTIAL_CONTENT: Final = 206
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_CUSTOMER_KEY: Final = "x-amz-server-side-encryption-customer-algorithm"
_CHANGED: Final = frozenset({"PreconditionFailed", "NoSuchKey", "NoSuchObject", "InvalidRange"})


def fetch_file(
    client: Minio,
    source: StorePrefix,
    file: RemoteFile,
    target: Path,
    *,
    attempts: int,
    progress: Callable[[int], None],
) -> None:
    """Fetch the object to `target`. What stands there is taken for it: it got its name when it was right.

    `attempts` are tries in a row that bring nothing. `progress` is told the bytes of each piece, and of what was there.
    Raises `ModelError` where the object is not what was listed, `OSError`, and what the SDK and urllib3 raise.
    """
    if target.exists():
        progress(file.size_bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.touch()
    progress(part.stat().st_size)
    failed = 0
    while (begun_at := part.stat().st_size) < file.size_bytes:
        broken: Exception | None = None
        try:
            _go_on(client, source, file, part, progress)
        except S3Error as error:
            if error.code not in _CHANGED:
                raise
            raise ModelError(f"{source.bucket}/{file.key} changed while it was fetched: start again.") from error
        except urllib3.exceptions.HTTPError as error:
            broken = error
        failed = failed + 1 if part.stat().st_size <= begun_at else 0
        if failed >= attempts:
            raise broken or urllib3.exceptions.ProtocolError(f"{file.key} came without its end")
        if failed:
            time.sleep(PAUSE_S * 2 ** (failed - 1))
    _check(client, source, file, part)
    part.rename(target)


def _go_on(client: Minio, source: StorePrefix, file: RemoteFile, part: Path, progress: Callable[[int], None]) -> None:
    offset = part.stat().st_size
    response = client.get_object(source.bucket, file.key, offset=offset, request_headers={"If-Match": f'"{file.etag}"'})
    try:
        is_rest = response.status == _PARTIAL_CONTENT
        with part.open("ab") as opened:
            if offset and not is_rest:
                opened.truncate(0)
                progress(-offset)
            while piece := response.read1(_CHUNK_BYTES):
                opened.write(piece)
                progress(len(piece))
            opened.flush()
            os.fsync(opened.fileno())
    finally:
        response.close()
        response.release_conn()


def _check(client: Minio, source: StorePrefix, file: RemoteFile, part: Path) -> None:
    wrong = None
    if part.stat().st_size != file.size_bytes:
        wrong = f"has {part.stat().st_size} bytes instead of {file.size_bytes}"
    elif file.sha256 is not None:
        if _digest(part, "sha256") != file.sha256:
            wrong = "has not the SHA-256 that the manifest names"
    elif _MD5.fullmatch(file.etag) and _digest(part, "md5") != file.etag and _is_md5(client, source, file):
        wrong = "has not the MD5 that its ETag names; where a store's ETags are no MD5, put a SHA256SUMS beside it"
    if wrong is not None:
        part.unlink()
        raise ModelError(f"The object {file.key} of {source} came torn: it {wrong}. Start again, or upload it again.")


def _is_md5(client: Minio, source: StorePrefix, file: RemoteFile) -> bool:
    """Whether the object's ETag is the MD5 of its bytes. Encrypted with KMS or a customer's key it just looks so."""
    headers = client.stat_object(source.bucket, file.key).metadata or {}
    named = {str(name).lower(): str(value) for name, value in headers.items()}
    encryption = named.get("x-amz-server-side-encryption", "")
    return not encryption.startswith("aws:kms") and _CUSTOMER_KEY not in named


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
