"""Readies a bucket: it exists, old objects leave it, and its conditional puts decide. Synchronous, on the minio SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import MinioException, S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from producer.results.objects import StoreUnsuitable

log = structlog.get_logger(__name__)

PROBE_KEY: Final = ".darkroom/conditional-put-probe"
"""Where a conditional put is tried. Tenants never begin with a dot, so it is no request's key."""
RETENTION_RULE: Final = "darkroom-retention"
"""The id of our lifecycle rule; other people's rules stand beside it."""

_MADE_ALREADY: Final = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


def make_bucket(client: Minio, bucket: str) -> bool:
    """Make the bucket unless it is there. True if this call made it. Raises what the SDK raises."""
    if client.bucket_exists(bucket):
        return False
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code not in _MADE_ALREADY or not client.bucket_exists(bucket):
            raise
        return False  # another process was quicker
    return True


def keep_for(client: Minio, bucket: str, retention_days: int) -> bool:
    """Have the store remove objects after so many days. False, and a line in the log, where it cannot.

    Rules with other ids are left as they are. Raises nothing of the store's: a missing rule costs space, and no
    request fails for it.
    """
    ours = Rule(ENABLED, Filter(prefix=""), rule_id=RETENTION_RULE, expiration=Expiration(days=retention_days))
    try:
        current = client.get_bucket_lifecycle(bucket)
        rules = [] if current is None else current.rules
        if any(rule.rule_id == RETENTION_RULE and _same(rule, ours) for rule in rules):
            return True
        others = [rule for rule in rules if rule.rule_id != RETENTION_RULE]
        client.set_bucket_lifecycle(bucket, LifecycleConfig([*others, ours]))
    except (MinioException, ValueError) as error:
        log.warning(
            "the object store takes no lifecycle rule: old objects have to be removed by other means",
            bucket=bucket,
            retention_days=retention_days,
            error=str(error),
        )
        return False
    return True


def prove_conditional_puts(bucket: str, put_if_absent: Callable[[str, bytes, str], bool]) -> None:
    """Raise `StoreUnsuitable` unless the second of two conditional puts of one key is refused.

    A server that ignores `If-None-Match` answers both with success, and two workers would both believe that they
    decided a request. The probe stays in the bucket, so that a first start beside another proves no less.
    """
    put_if_absent(PROBE_KEY, b"conditional puts are tried with this object", "text/plain")
    if put_if_absent(PROBE_KEY, b"conditional puts are ignored by this store", "text/plain"):
        raise StoreUnsuitable(
            f"The object store overwrites an object of the bucket {bucket} in spite of If-None-Match: *, so nothing "
            "would keep two workers from deciding one request differently. Use a store with conditional writes, as "
            "current MinIO, SeaweedFS and Amazon S3 have."
        )


def _same(rule: Rule, ours: Rule) -> bool:
    days = None if rule.expiration is None else rule.expiration.days
    return ours.expiration is not None and days == ours.expiration.days and rule.status == ours.status
