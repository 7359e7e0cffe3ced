"""Buckets that others made: nothing in them changes but what is ours, and their lifecycle rules stay to the byte.

The first table is of documents, edited as text. The rest runs on the real servers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from darkroom.consumer.audit.audit import audit
from darkroom.consumer.cli.init import init
from darkroom.consumer.worker.engines import make_engine
from darkroom.producer.client.saving import save_images
from darkroom.producer.store.lifecycle import NO_RULES, RETENTION_RULE, LifecycleUnreadable, read_lifecycle
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.producer.store.s3_retention import MADE_BY
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings, load_settings
from tests.integration.in_process import Producer, running_worker
from tests.producer.objects_server import Answer, s3_error, serving
from tests.strangers.conftest import Place
from tests.strangers.foreign_bucket import LOCK, ForeignBucket, differences
from tests.strangers.table import Stranger, rows

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
OLD_LOGS = (
    "<Rule><ID>old-logs</ID><Status>Enabled</Status><Prefix>logs/</Prefix><Expiration><Days>7</Days></Expiration>"
    "</Rule>"
)
TIERS = (
    "<Rule><ID>tiers</ID><Filter><And><Prefix>raw/</Prefix><Tag><Key>a</Key><Value>&lt;b&gt;</Value></Tag>"
    "<ObjectSizeGreaterThan>1048576</ObjectSizeGreaterThan></And></Filter><Status>Enabled</Status>"
    "<Transition><Days>30</Days><StorageClass>STANDARD_IA</StorageClass></Transition>"
    "<Transition><Days>90</Days><StorageClass>GLACIER</StorageClass></Transition>"
    "<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions>"
    "</NoncurrentVersionExpiration></Rule>"
)
DATED = (
    "<Rule><ID>dated</ID><Filter><Prefix>tmp/</Prefix></Filter><Status>Disabled</Status>"
    "<Expiration><Date>2030-01-01T00:00:00.000Z</Date></Expiration></Rule>"
)
OURS_OLD = (
    "<Rule><ID>darkroom-retention</ID><Prefix>d/</Prefix><Status>Enabled</Status>"
    "<Expiration><Days>9</Days></Expiration></Rule>"
)
OURS_NEW = (
    "<Rule><ID>darkroom-retention</ID><Filter><Prefix>d/</Prefix></Filter><Status>Enabled</Status>"
    "<Expiration><Days>9</Days></Expiration></Rule>"
)


def document(*rules: str, head: str = "", root: str = f"LifecycleConfiguration {XMLNS}", tail: str = "") -> bytes:
    return f"{head}<{root}>{''.join(rules)}{tail}</{root.partition(' ')[0]}>".encode()


DOCUMENTS = (
    Stranger(
        "a prefix of the older way",
        "Terraform AWS provider 3.76 aws_s3_bucket lifecycle_rule",
        document(OLD_LOGS),
        document(OLD_LOGS, OURS_OLD),
    ),
    Stranger(
        "two transitions, sizes, tags, versions kept",
        "AWS CLI 2.31 put-bucket-lifecycle-configuration",
        document(TIERS, DATED),
        document(TIERS, DATED, OURS_NEW),
    ),
    Stranger(
        "declaration, comments, line breaks and spaces",
        "Ceph RGW 19.2",
        document(f"\n  {DATED}\n  <!-- <Rule> of the ops team -->\n", head='<?xml version="1.0" encoding="UTF-8"?>\n'),
        document(
            f"\n  {DATED}{OURS_NEW}\n  <!-- <Rule> of the ops team -->\n",
            head='<?xml version="1.0" encoding="UTF-8"?>\n',
        ),
    ),
    Stranger(
        "no namespace, as the server writes it anew",
        "MinIO 2026-02-12",
        document(DATED, root="LifecycleConfiguration"),
        document(DATED, OURS_NEW, root="LifecycleConfiguration"),
    ),
    Stranger(
        "a namespace prefix",
        "Jackson XML 2.21 with a declared prefix",
        b'<s3:LifecycleConfiguration xmlns:s3="urn:x"><s3:Rule><s3:ID>a</s3:ID><s3:Filter/>'
        b"<s3:Status>Disabled</s3:Status></s3:Rule></s3:LifecycleConfiguration>",
        b'<s3:LifecycleConfiguration xmlns:s3="urn:x"><s3:Rule><s3:ID>a</s3:ID><s3:Filter/>'
        b"<s3:Status>Disabled</s3:Status></s3:Rule><s3:Rule><s3:ID>darkroom-retention</s3:ID><s3:Filter><s3:Prefix>d/"
        b"</s3:Prefix></s3:Filter><s3:Status>Enabled</s3:Status><s3:Expiration><s3:Days>9</s3:Days></s3:Expiration>"
        b"</s3:Rule></s3:LifecycleConfiguration>",
    ),
    Stranger(
        "ours with other days, between others",
        "Darkroom 0.15",
        document(DATED, OURS_NEW.replace("<Days>9<", "<Days>30<"), TIERS),
        document(DATED, OURS_NEW, TIERS),
    ),
    Stranger(
        "ours of another deployment of the bucket",
        "Darkroom 0.15",
        document(OURS_NEW.replace("d/", "other/")),
        document(OURS_NEW.replace("d/", "other/"), OURS_NEW.replace("darkroom-retention", "darkroom-retention-d")),
    ),
    Stranger("no rule at all", "SeaweedFS 4.48", document(), document(OURS_NEW)),
)


@pytest.mark.parametrize("row", rows(DOCUMENTS))
def test_our_rule_comes_into_a_document_and_every_other_byte_stays(row: Stranger[bytes, bytes]) -> None:
    before = read_lifecycle(row.given)
    written = before.with_retention("d/", 9)
    assert written == row.right
    after = read_lifecycle(written)
    ours = after.retention_rule("d/")
    assert ours is not None
    assert (ours.days, ours.is_enabled) == (9, True)
    assert after.others("d/") == before.others("d/")
    assert after.with_retention("d/", 9) == written


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not XML",
        b"<html><body>Sign in</body></html>",
        document(OLD_LOGS)[:-10],
        document("<Rule/>"),
        b'<!DOCTYPE x [<!ENTITY a "b">]><LifecycleConfiguration/>',
        document(OLD_LOGS).decode().encode("utf-16"),
        document(OLD_LOGS, head='<?xml version="1.0" encoding="ISO-8859-1"?>'),
    ],
    ids=["empty", "text", "a page", "cut", "an empty rule", "a document type", "UTF-16", "Latin-1"],
)
def test_what_is_no_document_is_not_edited(content: bytes) -> None:
    with pytest.raises(LifecycleUnreadable):
        read_lifecycle(content)


def test_a_rule_that_does_more_than_expire_is_not_taken_for_ours() -> None:
    more = OURS_NEW.replace("</Rule>", "<AbortIncompleteMultipartUpload/></Rule>")
    rule = read_lifecycle(document(more)).retention_rule("d/")
    assert rule is not None
    assert rule.days is None


def test_a_bucket_without_a_document_gets_one() -> None:
    assert NO_RULES.with_retention("a&b/", 9) == document(OURS_NEW.replace("d/", "a&amp;b/"))


# --- Answers of stores -------------------------------------------------------------------------------------


async def test_a_document_that_cannot_be_read_is_not_written_over() -> None:
    broken = Answer(200, document(OLD_LOGS)[:-10], {"Content-Type": "application/xml"})
    with serving(Answer(200), broken, Answer(200), s3_error(412, "PreconditionFailed")) as server:
        async with MinioObjects(server.settings(prefix="d", retention_days=9)) as objects:
            with capture_logs() as logs:
                await objects.ensure_bucket(9)
    assert [line for line in server.seen if line.method == "PUT" and "lifecycle" in line.path] == []
    assert "left as they are" in logs[0]["says"]


async def test_the_size_from_which_transitions_begin_is_sent_back_as_it_came() -> None:
    header = "x-amz-transition-default-minimum-object-size"
    before = Answer(200, document(TIERS), {"Content-Type": "application/xml", header: "varies_by_storage_class"})
    after = Answer(200, document(TIERS, OURS_NEW), {"Content-Type": "application/xml"})
    untagged, done, stands = s3_error(404, "NoSuchTagSet"), Answer(200), s3_error(412, "PreconditionFailed")
    with serving(Answer(200), before, untagged, done, after, done, stands) as server:
        async with MinioObjects(server.settings(prefix="d", retention_days=9)) as objects:
            await objects.ensure_bucket(9)
    [put] = [seen for seen in server.seen if seen.method == "PUT" and "lifecycle" in seen.path]
    assert put.headers[header] == "varies_by_storage_class"
    assert put.body == document(TIERS, OURS_NEW)
    assert put.headers["Content-MD5"] == base64.b64encode(hashlib.md5(put.body).digest()).decode()


async def test_somebody_who_comes_between_is_told_of_with_what_stood_before() -> None:
    before = Answer(200, document(TIERS), {"Content-Type": "application/xml"})
    after = Answer(200, document(DATED, OURS_NEW), {"Content-Type": "application/xml"})
    untagged, done = s3_error(404, "NoSuchTagSet"), Answer(200)
    stands = s3_error(412, "PreconditionFailed")
    with serving(Answer(200), before, untagged, done, after, after, after, after, done, stands) as server:
        async with MinioObjects(server.settings(prefix="d", retention_days=9)) as objects:
            with capture_logs() as logs:
                await objects.ensure_bucket(9)
    assert logs[0]["before"].encode() == document(TIERS)
    assert "somebody else changed it" in logs[1]["says"]


# --- On real servers ---------------------------------------------------------------------------------------


OF_AN_OWNER = document(
    OLD_LOGS, DATED.replace("</ID><Filter><Prefix>tmp/</Prefix></Filter>", "</ID><Prefix>tmp/</Prefix>")
)
OURS = (".darkroom/",)


def settings_on(place: Place, **more: Any) -> Settings:
    """Settings of a bucket whose name nobody has."""
    overrides = {
        "s3.bucket": f"theirs-{uuid.uuid4().hex[:8]}",
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return load_settings(overrides=overrides, environ=place.environment)


async def ready_all(settings: Settings) -> str:
    """What `init`, `serve` and `gateway` do with a bucket; what `init` says of its rules."""
    async with MinioObjects(settings.s3) as objects:
        state = await objects.ready_bucket(settings.s3.retention_days, race=True)
        await asyncio.gather(*(objects.ensure_bucket(settings.s3.retention_days) for _ in range(2)))
        await objects.try_out()
        assert not state.made
        return f"{state.retention.says} {state.retention.remedy}"


@pytest.mark.stack
@pytest.mark.parametrize(
    "more",
    [{}, {"s3__prefix": "team/darkroom"}, {"s3__retention_days": 9}],
    ids=["nothing set", "a prefix alone", "days alone"],
)
async def test_the_rules_of_a_bucket_that_was_there_stay_to_the_byte(place: Place, more: dict[str, Any]) -> None:
    settings = settings_on(place, **more)
    theirs = ForeignBucket(settings)
    theirs.fill(OF_AN_OWNER)
    before = theirs.state((settings.s3.prefix,) if settings.s3.prefix else OURS)
    said = await ready_all(settings)
    assert differences(before, theirs.state((settings.s3.prefix,) if settings.s3.prefix else OURS)) == {}
    assert "was there before" in said
    wanted = {
        "DARKROOM_S3__PREFIX": not settings.s3.prefix,
        "DARKROOM_S3__RETENTION_DAYS": "s3__retention_days" not in more,
    }
    assert all((name in said) == is_wanted for name, is_wanted in wanted.items()), said


@pytest.mark.stack
async def test_a_rule_that_is_asked_for_and_confined_stands_beside_those_of_others(place: Place) -> None:
    settings = settings_on(place, s3__prefix="team/darkroom", s3__retention_days=9)
    theirs = ForeignBucket(settings)
    theirs.fill(OF_AN_OWNER)
    rules, state = theirs.rules(), theirs.state((settings.s3.prefix,))
    before = read_lifecycle(rules)
    said = await ready_all(settings)
    after = read_lifecycle(theirs.rules())
    assert after.others(settings.s3.prefix) == before.others("")
    ours = after.retention_rule("team/darkroom/")
    assert ours is not None
    assert (ours.id, ours.days, ours.is_enabled) == (RETENTION_RULE, 9, True)
    assert differences(state, theirs.state((settings.s3.prefix,))).keys() == {"lifecycle"}
    assert "below team/darkroom/" in said
    if place.name == "seaweedfs":  # which keeps the very bytes
        assert theirs.rules().replace(OURS_OLD.replace("d/", "team/darkroom/", 1).encode(), b"") == rules


@pytest.mark.stack
async def test_a_bucket_that_we_made_is_known_by_its_tag_and_follows_the_setting(place: Place) -> None:
    settings = settings_on(place)
    async with MinioObjects(settings.s3) as objects:
        assert (await objects.ready_bucket(30, race=False)).made
    changed = settings.s3.model_copy(update={"retention_days": 9})
    async with MinioObjects(changed) as objects:
        state = await objects.ready_bucket(9, race=False)
    theirs = ForeignBucket(settings)
    rule = read_lifecycle(theirs.rules()).retention_rule("")
    assert (state.made, rule and rule.days) == (False, 9)
    assert dict(theirs.client.get_bucket_tags(theirs.bucket) or {}) == dict([MADE_BY])


@pytest.mark.stack
async def test_puts_go_into_a_bucket_with_object_lock(place: Place) -> None:
    settings = settings_on(place)
    theirs = ForeignBucket(settings)
    theirs.client.make_bucket(theirs.bucket, object_lock=True)
    theirs.sending.ask("PUT", theirs.bucket, {"object-lock": ""}, LOCK)
    async with MinioObjects(settings.s3) as objects:
        await objects.ensure_bucket(30)
        await objects.put("a/b/0.png", b"picture", "image/png")
        assert await objects.put_if_absent("a/b/result.json", b"{}", "application/json")
        assert not await objects.put_if_absent("a/b/result.json", b"[]", "application/json")


@pytest.mark.stack
@pytest.mark.parametrize("place", ["seaweedfs", "moto"], indirect=True, scope="module")  # MinIO wants a key server
async def test_the_encryption_that_is_asked_for_is_what_objects_have(place: Place) -> None:
    settings = settings_on(place, s3__sse="AES256")
    async with MinioObjects(settings.s3) as objects:
        await objects.ensure_bucket(30)
        await objects.put("a/one", b"picture", "image/png")
        await objects.put_if_absent("a/two", b"picture", "image/png")
        assert await objects.get("a/one", bytes_max=100) == b"picture"
    theirs = ForeignBucket(settings)
    for key in ("a/one", "a/two"):
        headers = theirs.client.stat_object(theirs.bucket, key).metadata or {}
        assert headers["x-amz-server-side-encryption"] == "AES256"


@pytest.mark.stack
async def test_a_worker_with_a_prefix_leaves_a_foreign_bucket_as_it_is(stack: Stack, tmp_path: Path) -> None:
    """`init`, a worker, its completion, the audit and the saved picture, with every object below the prefix."""
    name = f"t{uuid.uuid4().hex[:12]}"
    overrides = {"topics.prefix": f"{name}.", "topics.requests_partitions": 1, "kafka.group_id": name}
    place = Place("seaweedfs", dict(stack.environment))
    settings = settings_on(
        place,
        s3__prefix="team/darkroom",
        simulated__step_ms=0,
        **{k.replace(".", "__"): v for k, v in overrides.items()},
    )
    theirs = ForeignBucket(settings)
    theirs.fill(OF_AN_OWNER)
    before = theirs.state((settings.s3.prefix,))
    variables = {
        **stack.environment,
        "DARKROOM_S3__BUCKET": settings.s3.bucket,
        "DARKROOM_S3__PREFIX": "team/darkroom",
        "DARKROOM_TOPICS__PREFIX": f"{name}.",
        "DARKROOM_KAFKA__GROUP_ID": name,
    }
    done = await asyncio.to_thread(CliRunner().invoke, init, ["--json"], env=variables)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["prefix"] == "team/darkroom/"
    request = GenerationRequest(request_id="order-1", prompt="a dancer", steps=2)
    async with running_worker(settings, make_engine(settings)), Producer(settings) as producer:
        sent = await producer.put(request.model_dump_json().encode(), key=b"order-1")
        broken = await producer.put(b"\xff", key=b"nobody")
        names = {"bucket": settings.s3.bucket, "key": "models/sdxl.safetensors"}
        curious = GenerationRequest.model_validate({"request_id": "order-2", "prompt": "p", "pose": {"image": names}})
        not_theirs = await producer.put(curious.model_dump_json().encode(), key=b"order-2")
        answers = await producer.answers({sent, broken, not_theirs})
    [refused] = answers[not_theirs]
    assert refused.error is not None
    assert refused.error.code.value == "pose_forbidden"
    assert "only what is below team/darkroom/" in refused.error.message
    [completion] = answers[sent]
    assert completion.status.value == "succeeded"
    assert [image.key.startswith("team/darkroom/default/order-1/0-") for image in completion.images] == [True]
    async with MinioObjects(settings.s3) as objects:
        report = await audit(settings, objects)
        assert report.is_clean
        [saved] = await save_images(objects, completion, tmp_path)
        assert saved.relative_to(tmp_path).parts[:2] == ("default", "order-1")
        keys = [key async for key in objects.list_keys("team/darkroom/")]
        with pytest.raises(ValueError, match="outside of the prefix"):
            await objects.put("default/order-1/0.png", b"x", "image/png")
        with pytest.raises(ValueError, match="outside of the prefix"):
            await objects.delete("models/sdxl.safetensors")
    assert {key.removeprefix("team/darkroom/").split("/")[0] for key in keys} == {"default", ".boots", ".darkroom"}
    assert differences(before, theirs.state((settings.s3.prefix,))) == {}
