"""A bucket of somebody else's with everything in it that an owner may have set, and all that can be seen of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from minio.commonconfig import ENABLED, Tags
from minio.error import S3Error
from minio.versioningconfig import VersioningConfig

from darkroom.producer.store.identities import identity_of
from darkroom.producer.store.s3_client import connect
from darkroom.producer.store.s3_sending import Sending
from darkroom.schemas.settings import Settings

_OF_A_BUCKET: Final = (
    "lifecycle",
    "tagging",
    "versioning",
    "policy",
    "cors",
    "object-lock",
    "encryption",
    "acl",
    "notification",
    "ownershipControls",
    "publicAccessBlock",
    "website",
    "uploads",
)
"""What S3 keeps of a bucket beside its objects, by the name of its sub-resource."""
_OF_EACH_ANSWER: Final = frozenset(
    {
        "date",
        "server",
        "connection",
        "keep-alive",
        "x-amz-request-id",
        "x-amz-id-2",
        "x-amzn-requestid",
        "accept-ranges",
    }
)
CORS: Final = (
    b"<CORSConfiguration><CORSRule><AllowedOrigin>https://studio.example</AllowedOrigin>"
    b"<AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>"
)
LOCK: Final = (
    b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
    b"<Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
)


@dataclass
class ForeignBucket:
    """The bucket of the settings, as its owner uses it."""

    settings: Settings

    def __post_init__(self) -> None:
        identity = identity_of(self.settings.s3)
        self.client, http = connect(self.settings.s3, identity)
        self.sending = Sending(self.settings.s3, identity, self.client, http)
        self.bucket = self.settings.s3.bucket

    def fill(self, rules: bytes, *, is_locked: bool = False) -> None:
        """Make it, with rules, tags, versions, a policy, CORS, an upload under way and objects of its owner."""
        self.client.make_bucket(self.bucket, object_lock=is_locked)
        if not is_locked:
            self.client.set_bucket_versioning(self.bucket, VersioningConfig(ENABLED))
        else:
            self.sending.ask("PUT", self.bucket, {"object-lock": ""}, LOCK)
        tags = Tags.new_bucket_tags()
        tags.update({"team": "vision", "cost centre": "7/b"})
        self.client.set_bucket_tags(self.bucket, tags)
        self.sending.ask("PUT", self.bucket, {"lifecycle": ""}, rules)
        policy = (
            '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},'
            f'"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::{self.bucket}/public/*"]}}]}}'
        )
        wanted = {"policy": policy.encode(), "cors": CORS}
        for name, document in wanted.items():
            with contextlib.suppress(S3Error):  # not every server has every document
                self.sending.ask("PUT", self.bucket, {name: ""}, document)
        for key, content in (
            ("models/sdxl.safetensors", b"1"),
            ("models/sdxl.safetensors", b"22"),
            ("logs/a", b"333"),
            ("default/order-1/result.json", b'{"theirs": true}'),
            ("team/report ü.pdf", b"4444"),
        ):
            headers = {
                "Content-Type": "application/x-theirs",
                "x-amz-meta-made": "by us",
                "x-amz-tagging": "owner=vision",
            }
            # With a checksum, which object lock asks for and the SDK does not send.
            assert self.sending._send("PUT", self.bucket, key, headers=headers, body=content).status == 200
        self.client.remove_object(self.bucket, "logs/a")
        self.client._create_multipart_upload(self.bucket, "raw/film.mov", {})

    def rules(self) -> bytes:
        """The lifecycle document."""
        return self.sending.ask("GET", self.bucket, {"lifecycle": ""}).data

    def state(self, ours: tuple[str, ...]) -> dict[str, Any]:
        """The documents of the bucket to the byte, and each version of each object whose key is not below `ours`."""
        documents = {name: self._document(name) for name in _OF_A_BUCKET}
        return {"documents": documents, "versions": dict(self._versions(ours))}

    def _document(self, name: str) -> bytes | str | list[bytes]:
        try:
            content = self.sending.ask("GET", self.bucket, {name: ""}).data
            # Tags are a set: MinIO answers them in another order each time.
            return sorted(re.findall(rb"<Tag>.*?</Tag>", content)) if name == "tagging" else content
        except S3Error as error:
            return error.code or "refused"

    def _versions(self, ours: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for one in self.client.list_objects(self.bucket, recursive=True, include_version=True):
            key, version = one.object_name or "", one.version_id or ""
            if key.startswith(ours):
                continue
            listed = (one.etag, one.size, one.last_modified, one.is_latest, one.storage_class)
            if one.is_delete_marker:
                yield f"{key}?{version}", listed
                continue
            answer = self.client.get_object(self.bucket, key, version_id=version or None)
            tags = self.client.get_object_tags(self.bucket, key, version_id=version or None)
            yield f"{key}?{version}", (listed, _read(answer), dict(tags or {}))


def _read(answer: urllib3.BaseHTTPResponse) -> tuple[bytes, dict[str, str]]:
    try:
        headers = {name.lower(): text for name, text in answer.headers.items() if name.lower() not in _OF_EACH_ANSWER}
        return answer.read(), headers
    finally:
        answer.release_conn()


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not the same, by its name, as it was and as it is."""
    flat_before = {**before["documents"], **before["versions"]}
    flat_after = {**after["documents"], **after["versions"]}
    names = flat_before.keys() | flat_after.keys()
    found = {name: (flat_before.get(name), flat_after.get(name)) for name in sorted(names)}
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}
