"""Proves on a real Kafka, S3 and worker that what was erased is never painted again, nor does anything of it return."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from darkroom.consumer.audit.audit import AuditReport, audit
from darkroom.inference.engine import LaneEngine
from darkroom.producer.cli.erase import erase
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.dead_letter_log import DeadLetterLog
from darkroom.producer.outcomes.dead_letters import Original, Reason, dead_letter
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.outcomes.replays import Action, Replayer
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.settings import Settings
from tests.integration.by_hand import CountingDevice
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.answering import Answerer, answered_of, source_of
from tests.producer.deployments import deployment_on
from tests.producer.examples import NOON

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

PROMPT = "a secret dancer"


class House:
    """One deployment, and the command line on it."""

    def __init__(self, settings: Settings, environment: dict[str, str], objects: MinioObjects) -> None:
        self.settings, self.objects = settings, objects
        self.environment = environment | {
            "DARKROOM_TOPICS__PREFIX": settings.topics.prefix,
            "DARKROOM_S3__BUCKET": settings.s3.bucket,
        }

    async def erase(self, *arguments: str) -> list[dict[str, Any]]:
        """Run the command in a thread, as it has an event loop of its own. Return what it printed."""
        result = await asyncio.to_thread(CliRunner().invoke, erase, [*arguments, "--json"], env=self.environment)
        assert result.exit_code == 0, result.output
        assert "generation.requests for 7 days" in result.stderr, "what it does not reach"
        return [json.loads(line) for line in result.stdout.splitlines()]

    async def bytes_in_store(self) -> bytes:
        keys = [key async for key in self.objects.list_keys("")]
        return b"\n".join([await self.objects.get(key, bytes_max=1 << 24) or b"" for key in keys])

    async def keys(self, request_id: str) -> list[str]:
        folder = f"default/{request_id}/"
        return [key.removeprefix(folder) async for key in self.objects.list_keys(folder)]

    async def audit(self) -> AuditReport:
        return await audit(self.settings, self.objects)


@pytest.fixture
async def house(stack: Stack) -> Any:
    settings = deployment_on(stack.environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    async with MinioObjects(settings.s3) as objects:
        await objects.ensure_bucket(30)
        yield House(settings, dict(stack.environment), objects)


def asked(request_id: str, prompt: str = PROMPT, **fields: Any) -> bytes:
    return json.dumps(
        {"request_id": request_id, "prompt": prompt, "steps": 4, "labels": {"by": PROMPT}, **fields}
    ).encode()


async def answer(producer: Producer, place: tuple[int, int]) -> Completion:
    [found] = (await producer.answers({place}))[place]
    assert isinstance(found, Completion)
    return found


async def test_an_erased_request_is_not_painted_again_and_the_audit_understands(house: House) -> None:
    device = CountingDevice()
    async with running_worker(house.settings, LaneEngine(device, rows_max=4)), Producer(house.settings) as producer:
        first = await answer(producer, await producer.put(asked("one", count=2)))
        kept = await answer(producer, await producer.put(asked("kept", "another prompt", labels={})))
        assert first.status is kept.status is Status.SUCCEEDED
        assert PROMPT.encode() in await house.bytes_in_store()
        [told] = await house.erase("one")
        assert told == {"tenant": "default", "request_id": "one", "was": "succeeded", "deleted": 2, "left": []}
        assert PROMPT.encode() not in await house.bytes_in_store()
        for sent_again in (asked("one", count=2), asked("one", "something else")):
            again = await answer(producer, await producer.put(sent_again))
            assert (again.status, again.images, again.labels, again.replayed) == (Status.ERASED, (), {}, True)
            assert again.error is not None
            assert again.error.code is ErrorCode.ERASED
        assert device.prepared == {PROMPT: 1, "another prompt": 1}
    assert await house.keys("one") == ["request.json", "result.json"]
    report = await house.audit()
    assert report.is_clean
    assert (report.records, report.succeeded, report.erased, report.objects_erased) == (4, 2, 2, 2)


async def test_a_request_erased_while_it_is_painted_leaves_no_picture(house: House) -> None:
    device = CountingDevice(step_ms=100)
    async with running_worker(house.settings, LaneEngine(device, rows_max=4)), Producer(house.settings) as producer:
        place = await producer.put(asked("one", steps=20))
        await until(lambda: device.steps[PROMPT] > 0, 30, "the first step")
        assert (await house.erase("one"))[0]["was"] is None
        ended = await answer(producer, place)
        assert (ended.status, ended.replayed) == (Status.ERASED, False)
    assert await house.keys("one") == ["request.json", "result.json"]
    assert (await house.audit()).is_clean


async def test_a_request_erased_before_any_worker_saw_it_is_never_painted(house: House) -> None:
    device = CountingDevice()
    async with Producer(house.settings) as producer:
        place = await producer.put(asked("one"))
        await house.erase("one")
        async with running_worker(house.settings, LaneEngine(device, rows_max=4)):
            assert (await answer(producer, place)).status is Status.ERASED
    assert device.prepared == {}


async def test_a_worker_that_died_between_storing_and_deciding_leaves_nothing_behind(house: House) -> None:
    """The erasure came in between; the record is delivered again."""
    async with Producer(house.settings) as producer:
        place = await producer.put(asked("one"))
        await house.erase("one")
        await house.objects.put("default/one/0-0123456789abcdef.png", PROMPT.encode(), "image/png")
        async with running_worker(house.settings, LaneEngine(CountingDevice(), rows_max=4)):
            assert (await answer(producer, place)).status is Status.ERASED
    assert await house.keys("one") == ["request.json", "result.json"]


async def test_a_tenant_is_erased_whole_and_no_other(house: House) -> None:
    async with (
        running_worker(house.settings, LaneEngine(CountingDevice(), rows_max=4)),
        Producer(house.settings) as producer,
    ):
        for request_id, tenant in (("a", "studio"), ("b", "studio"), ("a", "studio-2")):
            await answer(producer, await producer.put(asked(request_id, tenant=tenant)))
    await house.objects.put("studio/holiday/photo.png", b"of another program", "image/png")
    others = await house.objects.get("studio-2/a/result.json", bytes_max=1 << 20)
    told = await house.erase("--all", "--tenant", "studio", "--yes")
    assert [(one["request_id"], one["deleted"]) for one in told] == [("a", 1), ("b", 1)]
    assert await house.objects.get("studio-2/a/result.json", bytes_max=1 << 20) == others
    assert await house.objects.get("studio/holiday/photo.png", bytes_max=100) == b"of another program"
    report = await house.audit()
    assert (report.is_clean, report.objects_erased) == (True, 2)


async def test_what_ended_long_enough_ago_is_erased_for_a_retention_of_the_tenants_own(house: House) -> None:
    async with (
        running_worker(house.settings, LaneEngine(CountingDevice(), rows_max=4)),
        Producer(house.settings) as producer,
    ):
        for request_id in ("old", "new"):
            await answer(producer, await producer.put(asked(request_id, tenant="studio")))
    key = "studio/old/result.json"
    outcome = json.loads(await house.objects.get(key, bytes_max=1 << 20) or b"")
    outcome["completed_at"] = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    await house.objects.put(key, json.dumps(outcome).encode(), "application/json")
    await house.objects.put("studio/waits/request.json", b'{"request": {"request_id": "waits"}}', "application/json")
    week = ("--all", "--tenant", "studio", "--older-than", "7", "--yes")
    assert [one["request_id"] for one in await house.erase(*week)] == ["old"]
    assert await house.erase(*week) == [], "what was erased is not erased again, and what is under way is left"
    assert await house.objects.get("studio/waits/request.json", bytes_max=100) is not None


async def test_an_erasure_whose_process_was_killed_shows_in_the_audit_until_it_is_repeated(house: House) -> None:
    async with (
        running_worker(house.settings, LaneEngine(CountingDevice(), rows_max=4)),
        Producer(house.settings) as producer,
    ):
        await answer(producer, await producer.put(asked("one", count=4)))
    # SIGKILL at the second delete: the tombstones stand, and three pictures do.
    killed = (
        "import os, signal; from darkroom.producer.store.s3_objects import MinioObjects as M; kept, n = M.delete, [0]\n"
        "async def delete(self, key):\n"
        "    n[0] += 1\n"
        "    if n[0] == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    await kept(self, key)\n"
        "M.delete = delete\n"
        "from darkroom.command_line import main; main(['erase', 'one'])"
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", killed], env={**os.environ, **house.environment}, capture_output=True
    )
    assert process.returncode == -9, process.stderr
    assert len(await house.keys("one")) == 5
    report = await house.audit()
    assert (report.is_clean, report.erasures_unfinished) == (False, ["default/one"])
    assert (await house.erase("one"))[0] == {
        "tenant": "default",
        "request_id": "one",
        "was": "erased",
        "deleted": 3,
        "left": [],
    }
    assert (await house.audit()).is_clean


async def test_a_dead_letter_of_an_erased_request_is_not_replayed(house: House) -> None:
    async with Producer(house.settings) as producer, Answerer(house.settings) as answerer:
        await producer.put(asked("one"))
        [record] = await answerer.take(1)
        outcome = completions.failed(answered_of(record), "worker_crash", "2 workers died", completed_at=NOON)
        await Outcomes(house.objects).decide(outcome)
        letter = dead_letter(
            Original(source_of(record), record.key, record.value, record.headers),
            Reason("worker_crash", "2 workers died", 2, "w"),
            request_id="one",
            bucket=house.objects.bucket,
            record_bytes_max=0,
        )
        assert letter.stored is not None
        await house.objects.put(letter.stored.key, letter.stored.content, letter.stored.content_type)
        await answerer.publish([outcome, letter], offsets={0: (1, "")})
    async with (
        DeadLetterLog(house.settings, house.objects) as log,
        Replayer(house.settings, house.objects, log) as replayer,
    ):
        [found] = await log.letters()
        assert (await house.erase("one"))[0]["deleted"] == 1, "the stored letter"
        replay = await replayer.replay(found)
    assert replay.action in (Action.NOT_NEEDED, Action.FAILED), replay.message
    assert PROMPT.encode() not in await house.bytes_in_store()
    standing = await Outcomes(house.objects).find("default", "one")
    assert standing is not None
    assert standing.status is Status.ERASED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name request ids"),
        (["one", "--all"], "Name request ids"),
        (["--all"], "--all needs --tenant"),
        (["--all", "--tenant", "studio"], "Give --yes"),
        (["one", "--older-than", "7"], "--older-than goes with --all"),
        (["../etc"], "is no request id"),
        (["one", "--tenant", ".dead-letters"], "is no tenant"),
    ],
)
def test_wrong_usage_erases_nothing(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(erase, arguments)
    assert result.exit_code == 2
    assert said in result.output
