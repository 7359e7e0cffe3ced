"""The policies of `darkroom rights --format iam` on SeaweedFS: each is enough for its role, each right is missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.rights import Role
from darkroom.schemas.settings import S3Settings
from darkroom.schemas.store_rights import StoreArea, store_policy
from tests.producer.token_store import ROLES, TokenStore
from tests.strangers.test_s3_rights import DELETE, GET, LIST, PREFIX, PUT

pytestmark = pytest.mark.stack

BUCKET: Final = "darkroom"
WITHOUT: Final = {Role.WORKER: (GET, PUT, LIST), Role.DLQ_REPLAY: (GET, DELETE), Role.AUDIT: (GET,)}


def policy(role: Role, without: str | None) -> dict[str, Any]:
    """A role's policy but for one action."""
    found = store_policy(role, StoreArea(BUCKET, f"{PREFIX}/"))
    assert found is not None
    for statement in found["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != without]
    return found | {"Statement": [one for one in found["Statement"] if one["Action"]]}


def named(role: Role, without: str | None) -> str:
    return f"{role.name.lower()}-{(without or 'all').removeprefix('s3:').lower()}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenStore]:
    policies = {named(role, one): policy(role, one) for role, missing in WITHOUT.items() for one in (None, *missing)}
    found = TokenStore(tmp_path_factory.mktemp("token-store"), policies=policies)
    with found.running():
        yield found


async def work(role: Role, objects: MinioObjects, key: str) -> None:
    """What the role does in the bucket."""
    if role is Role.WORKER:
        await objects.ensure_bucket(30)
        assert await objects.get(f"{key}-not", bytes_max=10) is None
        assert await objects.put_if_absent(key, b"1", "text/plain")
    assert await objects.get(f"{PREFIX}/there", bytes_max=10) == b"there"
    if role is Role.DLQ_REPLAY:
        await objects.delete(key)


@pytest.mark.parametrize(
    ("role", "without"), [(role, one) for role, missing in WITHOUT.items() for one in (None, *missing)]
)
async def test_the_policy_is_enough_and_each_of_its_rights_is_missed(
    store: TokenStore, tmp_path: Path, role: Role, without: str | None
) -> None:
    token = tmp_path / "token"
    token.write_text(store.issuer.token())
    values = {"endpoint": store.url, "bucket": BUCKET, "prefix": PREFIX, "attempts": 1}
    root = {"access_key": store.root.access_key, "secret_key": store.root.secret_key}
    async with MinioObjects(S3Settings.model_validate(values | root)) as objects:
        await objects.put(f"{PREFIX}/there", b"there", "text/plain")
    own = {"credentials": "web_identity", "web_identity_token_file": token, "role_arn": ROLES + named(role, without)}
    async with MinioObjects(S3Settings.model_validate(values | own)) as objects:
        if without is None:
            await work(role, objects, f"{PREFIX}/{named(role, without)}")
            return
        with pytest.raises(StoreUnavailable) as caught:
            await work(role, objects, f"{PREFIX}/{named(role, without)}")
    assert without in caught.value.remedy
    assert "DARKROOM_S3__ROLE_ARN" in caught.value.remedy
