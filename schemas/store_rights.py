"""The rights on the object store that each role needs: the least set, as a policy of Amazon's IAM and of MinIO.

`tests/strangers/test_s3_rights.py` finds the sets again on MinIO: with exactly these each role does its work, and with
any one of them taken away it misses it as docs/how-to/s3-rights.md says. The document is IAM's JSON policy (version
2012-10-17), which MinIO and SeaweedFS take as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from darkroom.schemas.rights import Role


class StoreArea(NamedTuple):
    """A bucket, or a part of it."""

    bucket: str
    prefix: str = ""
    """The beginning of the keys: empty, or it ends in a slash; of a model without the slash."""


_GET, _PUT, _DELETE = "s3:GetObject", "s3:PutObject", "s3:DeleteObject"
_RULES: Final = ("s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration", "s3:GetBucketTagging")
_MAKES: Final = ("s3:CreateBucket", "s3:PutBucketTagging")
_OBJECTS: Final[dict[Role, tuple[str, ...]]] = {
    Role.WORKER: (_GET, _PUT),
    Role.GATEWAY: (_GET, _PUT),
    Role.HOOKS: (_GET, _PUT),
    Role.SEND_WAIT: (_GET, _PUT),
    Role.WATCH: (_GET,),
    Role.AUDIT: (_GET,),
    Role.DLQ_LIST: (_GET,),
    Role.DLQ_REPLAY: (_GET, _DELETE),
    Role.INIT: (_PUT, _DELETE),
    Role.INIT_GROW: (_PUT, _DELETE),
    Role.DOCTOR: (_GET, _PUT, _DELETE),
}
"""Every one of them also lists, which tells an absent object from a forbidden one. Other roles use no store."""
_BUCKET: Final[dict[Role, tuple[str, ...]]] = {
    Role.INIT: _RULES,
    Role.INIT_GROW: _RULES,
    Role.DOCTOR: (_RULES[0], _RULES[2]),
}


def store_policy(
    role: Role,
    area: StoreArea,
    *,
    makes_bucket: bool = False,
    pictures: Iterable[str] = (),
    models: Iterable[StoreArea] = (),
    kms_key: str | None = None,
) -> dict[str, Any] | None:
    """Return the policy of a role; None for a role that does not use the store.

    `makes_bucket`: the bucket is not there yet, and `init` is to make it. A worker also reads `pictures`, whole buckets
    that poses may be in, and `models`. `kms_key` is the key that puts ask to be encrypted with: Amazon's id or ARN.
    """
    if role not in _OBJECTS:
        return None
    statements = [_on_objects(area, _OBJECTS[role]), _listing(area)]
    on_bucket = _BUCKET.get(role, ())
    if on_bucket:
        more = _MAKES if makes_bucket and role is not Role.DOCTOR else ()
        statements.append(_allow([*on_bucket, *more], [f"arn:aws:s3:::{area.bucket}"]))
    if role is Role.WORKER:
        statements.extend(_on_objects(StoreArea(bucket), (_GET,)) for bucket in pictures)
        for model in models:
            statements += _reading(model)
    if kms_key is not None:
        key = kms_key if kms_key.startswith("arn:") else f"arn:aws:kms:*:*:key/{kms_key}"
        statements.append(_allow(["kms:GenerateDataKey", "kms:Decrypt"], [key]))
    return {"Version": "2012-10-17", "Statement": statements}


def _on_objects(area: StoreArea, actions: Iterable[str]) -> dict[str, Any]:
    return _allow(list(actions), [f"arn:aws:s3:::{area.bucket}/{area.prefix}*"])


def _listing(area: StoreArea) -> dict[str, Any]:
    statement = _allow(["s3:ListBucket"], [f"arn:aws:s3:::{area.bucket}"])
    return statement | ({"Condition": {"StringLike": {"s3:prefix": [f"{area.prefix}*"]}}} if area.prefix else {})


def _reading(model: StoreArea) -> list[dict[str, Any]]:
    """One object of that key, or all objects below it."""
    under = [model.prefix, f"{model.prefix}/*"]
    listing = _allow(["s3:ListBucket"], [f"arn:aws:s3:::{model.bucket}"])
    return [
        _allow([_GET], [f"arn:aws:s3:::{model.bucket}/{one}" for one in under]),
        listing | {"Condition": {"StringLike": {"s3:prefix": under}}},
    ]


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}
