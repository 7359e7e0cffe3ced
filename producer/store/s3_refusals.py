"""A store's refusal in words: what is wrong, as a sentence, and the remedy, by what its answer says.

The order of the tables is the order of belief: a clock that is wrong makes every signature wrong, so it is looked at
before the keys are blamed. Codes are those of the Amazon S3 API Reference, "Error responses", and what MinIO
(cmd/api-errors.go), SeaweedFS (weed/s3api/s3err), Garage, Ceph and versitygw write in their places.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final, NamedTuple

from darkroom.schemas.errors import bounded
from darkroom.schemas.settings import S3Settings

SKEW_S_MAX: Final = 15 * 60.0
"""A signature of another time than this around the server's is refused (AWS Signature Version 4)."""
_SAID_CHARACTERS_MAX: Final = 300


class Doing(Enum):
    """An operation on the store and the rights that it takes."""

    READ = "s3:GetObject, and s3:ListBucket, without which an absent object is refused instead of said to be absent"
    PUT = "s3:PutObject"
    DELETE = "s3:DeleteObject"
    LIST = "s3:ListBucket"
    MAKE = "s3:ListBucket, and s3:CreateBucket unless the bucket is there"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success, as far as it tells."""

    status: int
    code: str
    message: str = ""
    region: str = ""
    """The region that the bucket is in, where the answer says so."""
    date: str = ""
    """The server's time, as its `Date` header has it."""
    location: str = ""
    """Where a redirection leads."""


class Words(NamedTuple):
    """The sentence for it, and the remedy."""

    what: str
    remedy: str
    is_about_bucket: bool = True
    """Whether another bucket might be read all the same: then a request that names this one is refused."""


def words_for(refusal: Refusal, s3: S3Settings, bucket: str, doing: Doing) -> Words:
    """Return what is wrong and what to do, whatever the answer was."""
    for rule in _RULES:
        words = rule(refusal, s3, bucket, doing)
        if words is not None:
            return words
    said = f"{refusal.code}: {refusal.message}" if refusal.message else refusal.code
    return Words(
        f"The object store at {s3.endpoint} did not do its part for the bucket {bucket} "
        f"({bounded(said, _SAID_CHARACTERS_MAX)}).",
        "Check that it runs and that DARKROOM_S3__ENDPOINT is its address.",
        is_about_bucket=False,
    )


def seconds_apart(date: str) -> float | None:
    """Return this machine's clock minus the time in a `Date` header, in seconds; None where it says none."""
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


Rule = Callable[[Refusal, S3Settings, str, Doing], Words | None]


def _clocks(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:  # noqa: ARG001 - as all rules
    apart = seconds_apart(refusal.date)
    is_said = refusal.code in ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture")
    is_measured = apart is not None and abs(apart) > SKEW_S_MAX
    if not is_said and not (is_measured and refusal.status in (400, 401, 403)):
        return None
    how = ""
    if is_measured and apart is not None:
        how = f": ours is {_duration(abs(apart))} {'ahead' if apart > 0 else 'behind'}"
    return Words(
        f"The object store at {s3.endpoint} refuses us because its clock and this machine's differ by more than the 15 "
        f"minutes that a signature is good for{how}.",
        "Set both by NTP.",
        is_about_bucket=False,
    )


def _region(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    region = refusal.region or _found(r"""expecting ["']?([a-z0-9-]+)""", refusal.message)
    is_said = refusal.code in _REGION_CODES or (
        refusal.code == "AuthorizationHeaderMalformed" and re.search("region|scope", refusal.message, re.IGNORECASE)
    )
    is_elsewhere = refusal.status in (301, 307, 400, 403) and bool(region) and region != s3.region
    if not is_said and not is_elsewhere:
        return None
    known = f"{region}, and requests are signed for {s3.region}" if region else f"not {s3.region}"
    said = f" ({bounded(refusal.message, _SAID_CHARACTERS_MAX)})" if refusal.message and not region else ""
    remedy = f"Set DARKROOM_S3__REGION to {region}" if region else "Set DARKROOM_S3__REGION to the store's region"
    return Words(
        f"The region of the bucket {bucket} at {s3.endpoint} is {known}{said}.",
        f"{remedy}; where the endpoint names a region, DARKROOM_S3__ENDPOINT must name the same.",
    )


def _another_address(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    if not 300 <= refusal.status < 400:
        return None
    where = f" to {bounded(refusal.location, 200)}" if refusal.location else ""
    return Words(
        f"What answers at {s3.endpoint} sends requests for the bucket {bucket} on{where}.",
        "Redirections are not followed, because signatures hold for one address: let DARKROOM_S3__ENDPOINT be the "
        "store's own, with the right http or https.",
    )


def _plain_to_tls(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:  # noqa: ARG001 - as above
    if not re.search(r"HTTP request (to an|was sent to) HTTPS", refusal.message):
        return None
    return Words(
        f"What answers at {s3.endpoint} speaks TLS there.",
        "Let DARKROOM_S3__ENDPOINT begin with https.",
        is_about_bucket=False,
    )


def _no_store(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:  # noqa: ARG001 - as above
    is_page = refusal.message.lstrip().lower().startswith(("<!doctype html", "<html"))
    if not (is_page and refusal.status < 500) and "must be made to API port" not in refusal.message:
        return None
    return Words(
        f"What answers at {s3.endpoint} is no S3 server: it sends a page (HTTP {refusal.status}).",
        "Let DARKROOM_S3__ENDPOINT name the port of the S3 API, not a console's, and no proxy that asks for a login.",
        is_about_bucket=False,
    )


def _object_lock(refusal: Refusal, s3: S3Settings, bucket: str, doing: Doing) -> Words | None:
    if refusal.code not in ("ObjectLocked", "InvalidBucketState", "InvalidRetentionPeriod") and not re.search(
        r"object lock|WORM|Content-MD5|x-amz-(sdk-)?checksum", refusal.message, re.IGNORECASE
    ):
        return None
    what = "keep an object that is locked" if doing is Doing.DELETE else "object lock"
    return Words(
        f"The bucket {bucket} at {s3.endpoint} has object lock and refuses this because of it ({_said(refusal)}).",
        f"Every put of ours carries Content-MD5, which object lock asks for; where the store wants more for {what}, "
        "let DARKROOM_S3__BUCKET be a bucket without object lock.",
    )


def _encryption(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    text = f"{refusal.code} {refusal.message}"
    right = _found(r"perform: (kms:\w+)", refusal.message)
    if not (re.search(r"kms|encrypt", text, re.IGNORECASE) or (refusal.status == 500 and s3.sse == "aws:kms")):
        return None
    asked = "asks for none" if s3.sse == "none" else f"asks for {s3.sse}"
    if right or "KMSAccessDenied" in refusal.code:
        remedy = f"Let the keys do {right or 'kms:GenerateDataKey and kms:Decrypt'} with the encryption's key."
    elif re.search(r"disabled|pending|NotFound|InvalidState|not found|does not exist", text, re.IGNORECASE):
        remedy = "Set DARKROOM_S3__SSE_KMS_KEY_ID to a key that exists, is enabled and is in the bucket's region."
    elif s3.sse == "none":
        remedy = "Set DARKROOM_S3__SSE to what the bucket's policy wants, AES256 or aws:kms."
    else:
        remedy = "Set DARKROOM_S3__SSE to what the store can do and the bucket's policy wants: none, AES256 or aws:kms."
    return Words(
        f"The object store at {s3.endpoint} refuses the encryption of objects in the bucket {bucket}, where "
        f"DARKROOM_S3__SSE {asked} ({_said(refusal)}).",
        remedy,
    )


def _keys(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    found = _KEYS.get(refusal.code)
    if found is None:
        return None
    what, remedy = found
    if s3.credentials != "static":
        remedy = _OTHER_KEYS[s3.credentials]
    return Words(f"The object store at {s3.endpoint} refuses us the bucket {bucket} ({refusal.code}): {what}.", remedy)


def _rights(refusal: Refusal, s3: S3Settings, bucket: str, doing: Doing) -> Words | None:
    if refusal.code not in ("AccessDenied", "AllAccessDisabled", "Forbidden", "Unauthorized") and not (
        refusal.status in (401, 403) and refusal.code.startswith("HTTP")
    ):
        return None
    named = _found(r"perform: (\w+:\w+)", refusal.message)
    said = f"; it says: {bounded(refusal.message, _SAID_CHARACTERS_MAX)}" if refusal.message else ""
    policy = ""
    if "explicit deny" in refusal.message or doing is Doing.PUT:
        policy = (
            " A policy of the bucket's may also deny it (for puts without encryption, see DARKROOM_S3__SSE), or the "
            "store is read-only."
        )
    if doing is Doing.MAKE:
        policy = " Where the bucket is somebody else's, let DARKROOM_S3__BUCKET name one of yours."
    return Words(
        f"The object store at {s3.endpoint} refuses us the bucket {bucket} ({refusal.code}{said}).",
        f"The call needs {named or doing.value}: allow it to {_HOLDERS[s3.credentials]}.{policy}",
    )


def _bucket(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    if refusal.code == "NoSuchBucket":
        return Words(
            f"The object store at {s3.endpoint} has no bucket {bucket}.",
            "Make it, or correct DARKROOM_S3__BUCKET; a worker that starts makes it where it may.",
        )
    if refusal.code in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
        return Words(
            f"The bucket {bucket} at {s3.endpoint} belongs to somebody else.",
            "Let DARKROOM_S3__BUCKET name one of yours: on Amazon S3 a name is taken for everybody.",
        )
    return None


def _full(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    if refusal.status != 507 and not re.search(r"StorageFull|QuotaExceeded|InsufficientStorage", refusal.code):
        return None
    return Words(
        f"The object store at {s3.endpoint} has no room left for the bucket {bucket} ({_said(refusal)}).",
        "Free some, raise the quota, or shorten DARKROOM_S3__RETENTION_DAYS.",
        is_about_bucket=False,
    )


def _busy(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    if refusal.code not in _BUSY_CODES and refusal.status not in (429, 503):
        return None
    return Words(
        f"The object store at {s3.endpoint} takes no more for the bucket {bucket} at the moment ({_said(refusal)}).",
        "It is asked again; where it lasts, lower DARKROOM_S3__THREADS, and look at the store's own log and at what "
        "stands before it at DARKROOM_S3__ENDPOINT.",
        is_about_bucket=False,
    )


def _read_only(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    if refusal.status != 405 and not re.search(r"read.?only|maintenance", refusal.message, re.IGNORECASE):
        return None
    return Words(
        f"What answers at {s3.endpoint} does not take this for the bucket {bucket} ({_said(refusal)}).",
        "Check whether the store is read-only or under maintenance, and that DARKROOM_S3__ENDPOINT is its S3 API.",
    )


def _torn(refusal: Refusal, s3: S3Settings, bucket: str, _: Doing) -> Words | None:
    if refusal.code not in ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"):
        return None
    return Words(
        f"The object store at {s3.endpoint} did not get what was sent to the bucket {bucket} ({refusal.code}): it was "
        "changed or cut on the way.",
        "Look at the proxies between here and DARKROOM_S3__ENDPOINT.",
        is_about_bucket=False,
    )


_REGION_CODES: Final = frozenset(
    {"IllegalLocationConstraintException", "InvalidLocationConstraint", "InvalidRegionName", "InvalidRegion"}
)
_BUSY_CODES: Final = frozenset(
    {
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ServiceUnavailable",
        "ServerBusy",
        "TooManyRequests",
        "Throttling",
        "RequestLimitExceeded",
        "XMinioServerNotInitialized",
        "OperationAborted",
    }
)
_KEYS: Final[dict[str, tuple[str, str]]] = {
    **dict.fromkeys(
        ("InvalidAccessKeyId", "InvalidAccessKey"),
        (
            "it does not know the access key",
            "Check DARKROOM_S3__ACCESS_KEY and DARKROOM_S3__SECRET_KEY, and that DARKROOM_S3__ENDPOINT is their store.",
        ),
    ),
    "SignatureDoesNotMatch": (
        "the signature is wrong",
        "Check DARKROOM_S3__SECRET_KEY; where it is right, a proxy changes the path or the Host header on the way.",
    ),
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired"),
        (
            "the keys are temporary ones whose session is over or was not sent along",
            "Set DARKROOM_S3__SESSION_TOKEN with them, or keys that last, or let DARKROOM_S3__CREDENTIALS be an "
            "identity that renews its keys: files, aws or web_identity.",
        ),
    ),
    **dict.fromkeys(
        ("AccountProblem", "NotSignedUp", "UserSuspended", "InvalidPayer", "XMinioUserDisabled"),
        (
            "the account of the keys is closed or held back",
            "Settle it with the store, or set DARKROOM_S3__ACCESS_KEY and DARKROOM_S3__SECRET_KEY to another's.",
        ),
    ),
}
_HOLDERS: Final = {
    **dict.fromkeys(
        ("static", "files"), "the user of DARKROOM_S3__ACCESS_KEY and DARKROOM_S3__SECRET_KEY, or correct these"
    ),
    "aws": "the role or user whose keys DARKROOM_S3__CREDENTIALS=aws finds (`aws sts get-caller-identity` names it)",
    "web_identity": "the role of DARKROOM_S3__ROLE_ARN, or of the token in DARKROOM_S3__WEB_IDENTITY_TOKEN_FILE",
}
_OTHER_KEYS: Final = {
    "files": "The files of DARKROOM_S3__ACCESS_KEY_FILE and DARKROOM_S3__SECRET_KEY_FILE were read again and do not "
    "help: check that they belong together and are written whole, and that DARKROOM_S3__ENDPOINT is their store.",
    "aws": "Keys that DARKROOM_S3__CREDENTIALS=aws found anew do not help: check that DARKROOM_S3__ENDPOINT is the "
    "store of that account, and this machine's clock.",
    "web_identity": "New keys of the token service do not help: check that DARKROOM_S3__STS_ENDPOINT is the token "
    "service of the store at DARKROOM_S3__ENDPOINT.",
}
"""What to do where keys are refused and those that were fetched again are too, by the identity."""
_RULES: Final[tuple[Rule, ...]] = (
    _clocks,
    _plain_to_tls,
    _region,
    _another_address,
    _no_store,
    _keys,
    _full,
    _torn,
    _object_lock,
    _encryption,
    _rights,
    _bucket,
    _busy,
    _read_only,
)


def _said(refusal: Refusal) -> str:
    said = f"{refusal.code}: {refusal.message}" if refusal.message else refusal.code
    return bounded(said, _SAID_CHARACTERS_MAX)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return "" if found is None else found[1]


def _duration(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} days"
