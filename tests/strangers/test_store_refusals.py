"""What stores answer when they refuse, as each product writes it, and the sentence and the remedy that follow.

A scripted server gives the answers. Those of SeaweedFS, MinIO and versitygw about keys, clocks, regions and digests
were taken from the real servers; the others follow the products' documentation.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import NamedTuple

import pytest

from darkroom.consumer.doctor.doctor import bucket as doctor_bucket
from darkroom.producer.store.objects import BucketForbidden, StoreUnavailable, StoreUnsuitable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import load_settings
from tests.producer.objects_server import Answer, s3_error, serving
from tests.strangers.table import Stranger, rows

Call = Callable[[MinioObjects], Awaitable[object]]


def look(objects: MinioObjects) -> Awaitable[object]:
    return objects.stat("t/one/0.png")


def read(objects: MinioObjects) -> Awaitable[object]:
    return objects.get("t/one/result.json", bytes_max=100)


def write(objects: MinioObjects) -> Awaitable[object]:
    return objects.put("t/one/0.png", b"x", "image/png")


def decide(objects: MinioObjects) -> Awaitable[object]:
    return objects.put_if_absent("t/one/result.json", b"{}", "application/json")


def remove(objects: MinioObjects) -> Awaitable[object]:
    return objects.delete("t/one/0.png")


def begin(objects: MinioObjects) -> Awaitable[object]:
    return objects.ensure_bucket(30)


@dataclass
class Given:
    """What is called, and what is answered to it."""

    call: Call
    answer: Answer
    settings: dict[str, object]
    ahead_s: float | None = None
    """How far the server's clock is ahead, where it is not right."""


class Right(NamedTuple):
    """Words that the sentence and the remedy have."""

    what: tuple[str, ...]
    remedy: tuple[str, ...]


def given(call: Call, status: int, code: str, message: str = "", more: str = "", **settings: object) -> Given:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()
    return Given(call, Answer(status, body, {"Content-Type": "application/xml"}), settings)


def bare(call: Call, status: int, body: bytes = b"", ahead_s: float | None = None, **headers: str) -> Given:
    return Given(
        call, Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()}), {}, ahead_s
    )


def at(ahead_s: float) -> str:
    """A `Date` header of a server whose clock is so far ahead."""
    return formatdate(time.time() + ahead_s, usegmt=True)


CLOCKS = ("clock",), ("NTP",)
TABLE = (
    Stranger(
        "skew, said",
        "SeaweedFS 4.48",
        given(
            read,
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large.",
        ),
        Right(*CLOCKS),
    ),
    Stranger(
        "skew, in a HEAD without a body",
        "MinIO 2026-02-12",
        bare(look, 403, ahead_s=3 * 3600),
        Right(("clock", "3 hours behind"), ("NTP",)),
    ),
    Stranger(
        "skew, at a start",
        "versitygw 1.8.0",
        bare(begin, 403, ahead_s=-1200),
        Right(("clock", "20 minutes ahead"), ("NTP",)),
    ),
    Stranger(
        "a clock that is a minute off",
        "MinIO 2026-02-12",
        bare(look, 403, ahead_s=60),
        Right(("AccessDenied",), ("s3:GetObject",)),
    ),
    Stranger(
        "another region, said with it",
        "Amazon S3 2026-11",
        given(
            read,
            400,
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            "<Region>eu-west-1</Region>",
        ),
        Right(("region", "eu-west-1", "us-east-1"), ("DARKROOM_S3__REGION to eu-west-1",)),
    ),
    Stranger(
        "another region, in the message alone",
        "versitygw 1.8.0",
        given(
            decide,
            400,
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the region &#34;us-east-1&#34; is wrong; expecting "
            "&#34;eu-west-1&#34;",
        ),
        Right(("region",), ("DARKROOM_S3__REGION to eu-west-1",)),
    ),
    Stranger(
        "another region, as a scope",
        "Garage 2.5.0",
        given(
            read,
            400,
            "AuthorizationHeaderMalformed",
            "Authorization header malformed, unexpected scope: 20261130/us-east-1/s3/aws4_request",
        ),
        Right(("region",), ("DARKROOM_S3__REGION",)),
    ),
    Stranger(
        "another region, in a header of a HEAD",
        "Amazon S3 2026-11",
        bare(look, 400, x_amz_bucket_region="eu-west-1"),
        Right(("region", "eu-west-1"), ("DARKROOM_S3__REGION to eu-west-1",)),
    ),
    Stranger(
        "another region, a redirection",
        "Amazon S3 2026-11",
        Given(
            read,
            Answer(
                301,
                b"<Error><Code>PermanentRedirect</Code><Endpoint>ours.s3.eu-west-1.amazonaws.com</Endpoint></Error>",
                {"Content-Type": "application/xml", "x-amz-bucket-region": "eu-west-1"},
            ),
            {},
        ),
        Right(("region",), ("DARKROOM_S3__REGION to eu-west-1",)),
    ),
    Stranger(
        "a location constraint",
        "Ceph RGW 19.2",
        given(
            begin,
            400,
            "IllegalLocationConstraintException",
            "The unspecified location constraint is incompatible for the region specific endpoint",
        ),
        Right(("region",), ("DARKROOM_S3__REGION",)),
    ),
    Stranger(
        "http to https by a proxy",
        "nginx 1.28",
        bare(read, 301, Location="https://store.example/ours"),
        Right(("sends requests", "https://store.example"), ("DARKROOM_S3__ENDPOINT",)),
    ),
    Stranger(
        "plain HTTP to a TLS port",
        "Go 1.26 net/http (MinIO, SeaweedFS)",
        bare(read, 400, b"Client sent an HTTP request to an HTTPS server.\n", Content_Type="text/plain"),
        Right(("speaks TLS",), ("https",)),
    ),
    Stranger(
        "plain HTTP to a TLS port of a proxy",
        "nginx 1.28",
        bare(
            write,
            400,
            b"<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
            Content_Type="text/html",
        ),
        Right(("speaks TLS",), ("https",)),
    ),
    Stranger(
        "a page instead of a store",
        "oauth2-proxy 7.13",
        bare(read, 403, b"<!DOCTYPE html><html><body>Sign in</body></html>", Content_Type="text/html; charset=utf-8"),
        Right(("no S3 server",), ("S3 API",)),
    ),
    Stranger(
        "an unknown key",
        "MinIO 2026-02-12",
        given(read, 403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records."),
        Right(("InvalidAccessKeyId", "does not know the access key"), ("DARKROOM_S3__ACCESS_KEY",)),
    ),
    Stranger(
        "an unknown key, at a HEAD",
        "MinIO 2026-02-12",
        bare(look, 403, X_Minio_Error_Code="InvalidAccessKeyId"),
        Right(("does not know the access key",), ("DARKROOM_S3__ACCESS_KEY",)),
    ),
    Stranger(
        "a wrong secret",
        "SeaweedFS 4.48",
        given(
            write,
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        ),
        Right(("signature is wrong",), ("DARKROOM_S3__SECRET_KEY", "proxy")),
    ),
    Stranger(
        "a session that is over",
        "AWS STS 2026-11",
        given(read, 400, "ExpiredToken", "The provided token has expired."),
        Right(("session is over",), ("keys that last",)),
    ),
    Stranger(
        "a missing right, named",
        "Amazon S3 2026-11",
        given(
            write,
            403,
            "AccessDenied",
            "User: arn:aws:iam::1:user/w is not authorized to perform: s3:PutObject on resource: "
            "&quot;arn:aws:s3:::ours/t&quot; because no identity-based policy allows the s3:PutObject action",
        ),
        Right(("AccessDenied", "not authorized"), ("needs s3:PutObject",)),
    ),
    Stranger(
        "a missing right to read",
        "MinIO 2026-02-12",
        given(read, 403, "AccessDenied", "Access Denied."),
        Right(("refuses us the bucket ours",), ("s3:GetObject", "s3:ListBucket")),
    ),
    Stranger(
        "a missing right to delete",
        "MinIO 2026-02-12",
        given(remove, 403, "AccessDenied", "Access Denied."),
        Right(("refuses us",), ("s3:DeleteObject",)),
    ),
    Stranger(
        "a policy that wants encryption",
        "Amazon S3 2026-11",
        given(
            write,
            403,
            "AccessDenied",
            "User is not authorized to perform: s3:PutObject on resource with an explicit deny in a resource-based "
            "policy",
        ),
        Right(("explicit deny",), ("s3:PutObject", "DARKROOM_S3__SSE")),
    ),
    Stranger(
        "a right to the key of the encryption",
        "Amazon S3 2026-11",
        given(
            write,
            403,
            "AccessDenied",
            "User: arn:aws:iam::1:user/w is not authorized to perform: kms:GenerateDataKey on resource: "
            "arn:aws:kms:eu-west-1:1:key/k",
            sse="aws:kms",
            sse_kms_key_id="k",
        ),
        Right(("encryption",), ("kms:GenerateDataKey",)),
    ),
    Stranger(
        "a key that is disabled",
        "Amazon S3 2026-11",
        given(
            decide,
            400,
            "KMS.DisabledException",
            "arn:aws:kms:eu-west-1:1:key/k is disabled.",
            sse="aws:kms",
            sse_kms_key_id="k",
        ),
        Right(("encryption", "aws:kms"), ("DARKROOM_S3__SSE_KMS_KEY_ID",)),
    ),
    Stranger(
        "a key that is not there",
        "MinIO 2026-02-12",
        given(
            decide, 404, "kms:KeyNotFound", "key with given key ID does not exist", sse="aws:kms", sse_kms_key_id="k"
        ),
        Right(("encryption",), ("DARKROOM_S3__SSE_KMS_KEY_ID",)),
    ),
    Stranger(
        "no key server",
        "MinIO 2026-02-12",
        given(write, 501, "NotImplemented", "Server side encryption specified but KMS is not configured", sse="AES256"),
        Right(("encryption", "AES256"), ("DARKROOM_S3__SSE",)),
    ),
    Stranger(
        "a bucket with object lock",
        "moto 5.2.5",
        given(
            write,
            400,
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock "
            "parameters",
        ),
        Right(("object lock",), ("DARKROOM_S3__BUCKET",)),
    ),
    Stranger(
        "an object that is locked",
        "MinIO 2026-02-12",
        given(remove, 400, "InvalidRequest", "Object is WORM protected and cannot be overwritten"),
        Right(("object lock",), ("without object lock",)),
    ),
    Stranger(
        "no bucket",
        "versitygw 1.8.0",
        given(write, 404, "NoSuchBucket", "The specified bucket does not exist."),
        Right(("has no bucket ours",), ("DARKROOM_S3__BUCKET",)),
    ),
    Stranger(
        "throttled",
        "Amazon S3 2026-11",
        given(write, 503, "SlowDown", "Please reduce your request rate."),
        Right(("SlowDown", "at the moment"), ("asked again", "DARKROOM_S3__THREADS")),
    ),
    Stranger(
        "too many requests",
        "Cloudflare R2 2026-11",
        bare(read, 429),
        Right(("at the moment",), ("DARKROOM_S3__THREADS",)),
    ),
    Stranger(
        "a disk that is full",
        "MinIO 2026-02-12",
        given(decide, 507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
        Right(("no room left",), ("DARKROOM_S3__RETENTION_DAYS",)),
    ),
    Stranger(
        "a quota",
        "Ceph RGW 19.2",
        given(write, 403, "QuotaExceeded", ""),
        Right(("no room left", "QuotaExceeded"), ("quota",)),
    ),
    Stranger(
        "a method that is not allowed",
        "Amazon S3 2026-11",
        given(write, 405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
        Right(("does not take this",), ("read-only",)),
    ),
    Stranger(
        "a store that is read-only",
        "versitygw 1.8.0 --readonly",
        given(write, 403, "AccessDenied", "Access Denied."),
        Right(("AccessDenied",), ("s3:PutObject", "read-only")),
    ),
    Stranger(
        "bytes that were changed on the way",
        "versitygw 1.8.0",
        given(write, 400, "BadDigest", "The Content-MD5 you specified did not match what we received."),
        Right(("changed or cut",), ("proxies",)),
    ),
    Stranger(
        "an error as text/xml",
        "gofakes3 1.2.0",
        Given(
            read,
            Answer(
                403,
                b'<?xml version="1.0"?>\n<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>',
                {"Content-Type": "text/xml"},
            ),
            {},
        ),
        Right(("does not know the access key",), ("DARKROOM_S3__ACCESS_KEY",)),
    ),
    Stranger(
        "an error as JSON",
        "Supabase Storage 1.29",
        bare(
            read,
            403,
            b'{"statusCode":"403","error":{"code":"SignatureDoesNotMatch","message":"no"}}',
            Content_Type="application/json",
        ),
        Right(("signature is wrong",), ("DARKROOM_S3__SECRET_KEY",)),
    ),
    Stranger(
        "an error with a namespace and no content type",
        "Swift s3api 2.36",
        Given(
            write,
            Answer(503, b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>SlowDown</Code></Error>'),
            {},
        ),
        Right(("SlowDown",), ("asked again",)),
    ),
)


@pytest.mark.parametrize("row", rows(TABLE))
async def test_a_refusal_has_its_own_sentence_and_remedy(row: Stranger[Given, Right]) -> None:
    answer = row.given.answer
    if row.given.ahead_s is not None:
        answer = Answer(answer.status, answer.body, {**answer.headers, "Date": at(row.given.ahead_s)})
    with serving(answer) as server:
        async with MinioObjects(server.settings(attempts=1, **row.given.settings)) as objects:
            with pytest.raises(StoreUnavailable) as caught:
                await row.given.call(objects)
    error = caught.value
    assert all(words in error.what for words in row.right.what), error.what
    assert all(words in error.remedy for words in row.right.remedy), error.remedy
    assert str(error) == f"{error.what} {error.remedy}"


async def test_an_absent_object_said_as_text_xml_is_absent() -> None:
    absent = Answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>", {"Content-Type": "text/xml"})
    with serving(absent) as server:
        async with MinioObjects(server.settings()) as objects:
            assert await objects.get("t/one/result.json", bytes_max=10) is None


async def test_anothers_bucket_in_another_region_refuses_its_request_and_holds_up_nobody() -> None:
    with serving(s3_error(400, "IllegalLocationConstraintException")) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(BucketForbidden, match=r"region of the bucket theirs"):
                await objects.get("pose.png", bucket="theirs", bytes_max=10)


async def test_a_bucket_name_that_somebody_else_has_is_said() -> None:
    taken, denied = s3_error(409, "BucketAlreadyExists"), s3_error(403, "AccessDenied")
    with serving(Answer(404), taken, Answer(403), denied) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnavailable, match=r"belongs to somebody else.*DARKROOM_S3__BUCKET"):
                await objects.ensure_bucket(30)


async def test_a_conflict_at_a_head_has_no_body_and_is_the_stores_fault() -> None:
    with serving(Answer(409)) as server:
        async with MinioObjects(server.settings(attempts=1)) as objects:
            with pytest.raises(StoreUnavailable, match=r"Conflict"):
                await objects.stat("t/one/0.png")


async def test_the_reason_that_a_head_cannot_have_is_asked_for() -> None:
    with serving(Answer(403), s3_error(403, "InvalidAccessKeyId")) as server:
        async with MinioObjects(server.settings(prefix="d")) as objects:
            with pytest.raises(StoreUnavailable, match=r"does not know the access key"):
                await objects.ensure_bucket(30)
    assert [seen.method for seen in server.seen] == ["HEAD", "GET"]
    assert "prefix=d%2F" in server.seen[1].path


async def test_a_bucket_that_may_be_listed_below_the_prefix_alone_is_there() -> None:
    listed = Answer(200, b"<ListBucketResult/>", {"Content-Type": "application/xml"})
    with serving(Answer(403), listed) as server:
        async with MinioObjects(server.settings(prefix="d")) as objects:
            assert await objects.is_there()


async def test_a_store_where_both_of_a_race_win_is_refused() -> None:
    """It refuses the second of two puts one after the other, as versitygw 1.7.0 and s3s-fs 0.14.1 do."""
    lifecycle, tags = s3_error(501, "NotImplemented"), Answer(200)
    with serving(Answer(200), lifecycle, tags, s3_error(412, "PreconditionFailed"), Answer(200)) as server:
        async with MinioObjects(server.settings()) as objects:
            with pytest.raises(StoreUnsuitable, match=r"both win"):
                await objects.ready_bucket(30, race=True)


async def test_doctor_says_what_is_wrong_with_the_bucket_and_the_remedy_apart() -> None:
    with serving(Answer(403, headers={"Date": at(86_400 * 3)})) as server:
        settings = load_settings(overrides={"s3": server.settings().model_dump(exclude_unset=True)}, environ={})
        [finding] = await doctor_bucket(settings)
    assert not finding.passed
    assert "3 days behind" in finding.says
    assert finding.remedy == "Set both by NTP."
