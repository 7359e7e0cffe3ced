"""The policies of docs/how-to/s3-rights.md: each is enough on MinIO; each of its actions, taken away, is missed as the
page says.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from click.testing import CliRunner
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from darkroom import main
from darkroom.consumer.weights.store import ModelStore
from darkroom.inference.types import ModelError
from darkroom.producer.outcomes.completions import image_refs, succeeded
from darkroom.producer.outcomes.erasing import Erasing
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.rights import Role as KafkaRole
from darkroom.schemas.settings import Settings, load_settings
from darkroom.schemas.settings.model_source import StorePrefix
from tests.producer.examples import NOON, Picture, answered, work
from tests.strangers.second_store import KEYS, minio_server

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "s3-rights.md"
BUCKET, PREFIX = "pictures", "team/darkroom"
"""As on the page."""

Work = Callable[[MinioObjects, Settings, Path], Awaitable[str]]


class Role(NamedTuple):
    """What a role does in the bucket, and what is seen without each of its actions."""

    does: Work
    without: dict[str, str | None]
    """A part of what is said; None where nothing is missed."""
    is_bucket_there: bool = True


async def _work(objects: MinioObjects, _: Settings, __: Path) -> str:
    await objects.ensure_bucket(30)
    folder = f"{PREFIX}/studio/{uuid.uuid4().hex}"
    assert await objects.get(f"{folder}/result.json", bytes_max=100) is None
    await objects.put(f"{folder}/0.png", b"picture", "image/png")
    assert await objects.put_if_absent(f"{folder}/result.json", b"{}", "application/json")
    assert not await objects.put_if_absent(f"{folder}/result.json", b"[]", "application/json")
    assert await objects.get(f"{folder}/result.json", bytes_max=100) == b"{}"
    return "worked"


async def _ready(objects: MinioObjects, settings: Settings, _: Path) -> str:
    _, retention = await objects.ready_bucket(settings.s3.retention_days, race=True)
    return f"{retention.says} {retention.remedy}"


async def _examine(objects: MinioObjects, settings: Settings, _: Path) -> str:
    assert await objects.is_there()
    deletes = await objects.try_out()
    retention = await objects.retention(settings.s3.retention_days)
    return f"{'' if deletes else 's3:DeleteObject is missed. '}{retention.says} {retention.remedy}"


async def _read(objects: MinioObjects, _: Settings, __: Path) -> str:
    assert await objects.get(f"{PREFIX}/there/1.safetensors", bytes_max=100) == b"1"
    assert await objects.get(f"{PREFIX}/nowhere", bytes_max=100) is None
    return "read"


async def _replay(objects: MinioObjects, _: Settings, __: Path) -> str:
    assert await objects.get(f"{PREFIX}/there/1.safetensors", bytes_max=100) == b"1"
    await objects.delete(f"{PREFIX}/there/1.safetensors")
    return "taken back"


async def _erase(objects: MinioObjects, _: Settings, __: Path) -> str:
    tenant, request_id = "there", "erased"
    pictures = [Picture(b"picture")]
    refs = image_refs(pictures, bucket=objects.bucket, prefix=objects.prefix, tenant=tenant, request_id=request_id)
    about = answered(tenant=tenant, request_id=request_id)
    await Outcomes(objects).decide(succeeded(about, refs, work(), completed_at=NOON), pictures)
    erased = await Erasing(objects).erase(tenant, request_id, by="a test", now=NOON)
    assert erased.deleted == 1
    return "erased"


async def _fetch(_: MinioObjects, settings: Settings, folder: Path) -> str:
    store = ModelStore(settings.s3, settings.model.model_copy(update={"cache_path": folder / "cache"}))
    fetched = store.fetch(StorePrefix(settings.s3.bucket, f"{PREFIX}/there"))
    assert (fetched / "1.safetensors").read_bytes() == b"1"
    return "fetched"


GET, PUT, DELETE, LIST = "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"
READ_RULES, WRITE_RULES = "s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"
_INIT: Final = {
    PUT: PUT,
    DELETE: None,
    LIST: LIST,
    READ_RULES: READ_RULES,
    WRITE_RULES: WRITE_RULES,
    "s3:GetBucketTagging": None,
}
ROLES: Final = {
    "Worker, gateway, hooks and `send --wait`": Role(_work, {GET: GET, PUT: PUT, LIST: LIST}),
    "`init`, for a bucket that is there": Role(_ready, _INIT),
    "`init`, for a bucket that it makes": Role(
        _ready,
        {**_INIT, "s3:CreateBucket": "s3:CreateBucket", "s3:PutBucketTagging": None},
        is_bucket_there=False,
    ),
    "`doctor`": Role(
        _examine,
        {GET: GET, PUT: PUT, DELETE: DELETE, LIST: LIST, READ_RULES: READ_RULES, "s3:GetBucketTagging": None},
    ),
    "`audit`, `watch --save` and `dlq show`": Role(_read, {GET: GET, LIST: None}),
    "`dlq replay`": Role(_replay, {GET: GET, DELETE: DELETE, LIST: None}),
    "`erase`": Role(_erase, {GET: GET, PUT: PUT, DELETE: DELETE, LIST: LIST}),
    "Models and adapters in `s3://`": Role(_fetch, {GET: GET, LIST: LIST}),
}


def sections() -> dict[str, str]:
    """The page's text by its headings."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def policy_of(section: str) -> dict[str, Any]:
    """The one policy of a section."""
    [text] = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    policy: dict[str, Any] = json.loads(text)
    return policy


def actions_of(policy: dict[str, Any]) -> list[str]:
    """What a policy allows."""
    return [action for statement in policy["Statement"] for action in statement["Action"]]


def test_the_page_has_a_policy_for_each_role_and_says_what_each_action_is_for() -> None:
    page = sections()
    assert page.keys() == ROLES.keys()
    for heading, role in ROLES.items():
        policy = policy_of(page[heading])
        actions = actions_of(policy)
        assert policy["Version"] == "2012-10-17", heading
        assert sorted(actions) == sorted(role.without), heading
        told = page[heading].replace("As above", page["`init`, for a bucket that is there"])
        assert [action for action in actions if f"`{action}`" not in told] == [], heading
        for statement in policy["Statement"]:
            assert statement["Effect"] == "Allow"
            assert all(one.startswith(f"arn:aws:s3:::{BUCKET}") for one in statement["Resource"])


PRINTED: Final = {
    "Worker, gateway, hooks and `send --wait`": (
        KafkaRole.WORKER,
        KafkaRole.GATEWAY,
        KafkaRole.HOOKS,
        KafkaRole.SEND_WAIT,
    ),
    "`init`, for a bucket that is there": (KafkaRole.INIT, KafkaRole.INIT_GROW),
    "`init`, for a bucket that it makes": (KafkaRole.INIT, KafkaRole.INIT_GROW),
    "`doctor`": (KafkaRole.DOCTOR,),
    "`audit`, `watch --save` and `dlq show`": (KafkaRole.AUDIT, KafkaRole.WATCH, KafkaRole.DLQ_LIST),
    "`dlq replay`": (KafkaRole.DLQ_REPLAY,),
}
"""Which roles of `darkroom rights` print the policy of a section."""


def printed(role: KafkaRole, *options: str, **variables: str) -> dict[str, Any]:
    """What `darkroom rights` prints of a role."""
    environment = {"DARKROOM_S3__BUCKET": BUCKET, "DARKROOM_S3__PREFIX": PREFIX, **variables}
    done = CliRunner().invoke(main, ["rights", "--role", role.value, *options], env=environment)
    assert done.exit_code == 0, done.output
    policy: dict[str, Any] = json.loads(done.stdout)
    return policy


@pytest.mark.parametrize("heading", PRINTED)
@pytest.mark.parametrize("form", ["iam", "minio"])
def test_the_command_prints_the_policies_of_the_page(heading: str, form: str) -> None:
    options = ("--new-bucket",) if not ROLES[heading].is_bucket_there else ()
    for role in PRINTED[heading]:
        assert printed(role, "--format", form, *options) == policy_of(sections()[heading])


def test_a_worker_s_policy_has_the_buckets_the_models_and_the_key_of_its_settings() -> None:
    policy = printed(
        KafkaRole.WORKER,
        "--format",
        "iam",
        DARKROOM_S3__ALLOWED_BUCKETS="poses",
        DARKROOM_S3__SSE="aws:kms",
        DARKROOM_S3__SSE_KMS_KEY_ID="1234",
        DARKROOM_MODEL__PATH="s3://models/sdxl/base",
    )
    allowed = {(action, one) for part in policy["Statement"] for action in part["Action"] for one in part["Resource"]}
    assert allowed >= {
        (GET, "arn:aws:s3:::poses/*"),
        (GET, "arn:aws:s3:::models/sdxl/base/*"),
        (LIST, "arn:aws:s3:::models"),
        ("kms:GenerateDataKey", "arn:aws:kms:*:*:key/1234"),
    }


def test_a_role_that_uses_no_store_is_told_so() -> None:
    done = CliRunner().invoke(main, ["rights", "--role", "cancel", "--format", "iam"])
    assert done.exit_code != 0
    assert "does not use the object store" in done.output


class Server(NamedTuple):
    """MinIO, with its owner's rights."""

    environment: dict[str, str]
    client: Minio
    admin: MinioAdmin
    folder: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The only one of the servers that knows policies of users."""
    folder = tmp_path_factory.mktemp("minio-rights")
    with minio_server(folder) as environment:
        address = environment["DARKROOM_S3__ENDPOINT"].removeprefix("http://")
        admin = MinioAdmin(endpoint=address, credentials=StaticProvider(*KEYS), secure=False)
        yield Server(environment, Minio(address, *KEYS, secure=False), admin, folder)


def settings_without(server: Server, heading: str, action: str | None) -> Settings:
    """Settings of a user who has the page's policy but for one action, in a bucket of its own."""
    name = uuid.uuid4().hex[:10]
    bucket, user = f"{BUCKET}-{name}", f"user-{name}"
    if ROLES[heading].is_bucket_there:
        server.client.make_bucket(bucket)
        server.client.put_object(bucket, f"{PREFIX}/there/1.safetensors", io.BytesIO(b"1"), 1)
    policy = policy_of(sections()[heading])
    for statement in policy["Statement"]:
        statement["Action"] = [one for one in statement["Action"] if one != action]
        statement["Resource"] = [one.replace(f":::{BUCKET}", f":::{bucket}") for one in statement["Resource"]]
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
    file = server.folder / f"{name}.json"
    file.write_text(json.dumps(policy))
    server.admin.user_add(user, f"secret-{name}")
    server.admin.policy_add(name, str(file))
    server.admin.policy_set(name, user=user)
    given = {
        "s3.bucket": bucket,
        "s3.prefix": PREFIX,
        "s3.access_key": user,
        "s3.secret_key": f"secret-{name}",
        "s3.attempts": 1,
        "s3.retention_days": 9,
    }
    return load_settings(overrides=given, environ=server.environment)


async def outcome(server: Server, heading: str, action: str | None, folder: Path) -> tuple[bool, str]:
    """Whether the role does its work without the action, and what is said."""
    settings = settings_without(server, heading, action)
    async with MinioObjects(settings.s3) as objects:
        try:
            return True, await ROLES[heading].does(objects, settings, folder)
        except (StoreUnavailable, ModelError) as error:
            return False, str(error)


@pytest.mark.proof
@pytest.mark.parametrize("heading", ROLES)
async def test_a_policy_of_the_page_is_enough(server: Server, heading: str, tmp_path: Path) -> None:
    works, said = await outcome(server, heading, None, tmp_path)
    assert works, said
    assert "AccessDenied" not in said


@pytest.mark.proof
@pytest.mark.parametrize(
    ("heading", "action"), [(heading, action) for heading, role in ROLES.items() for action in role.without]
)
async def test_an_action_that_is_missing_is_named(server: Server, heading: str, action: str, tmp_path: Path) -> None:
    named = ROLES[heading].without[action]
    works, said = await outcome(server, heading, action, tmp_path)
    if named is None:
        assert works, said
    else:
        assert named in said
