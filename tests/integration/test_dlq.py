"""Proves that dead letters can be listed, shown and replayed: each replay once, whatever interrupts or repeats it.

On a real Kafka and S3. Where a worker has to have died of a request, its outcome and its letter are published by hand;
everything else is a worker's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from darkroom.consumer.audit.audit import audit
from darkroom.inference.engine import LaneEngine
from darkroom.producer.cli.dlq import dlq
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.dead_letter_log import DeadLetterLog, Filter
from darkroom.producer.outcomes.dead_letters import DeadLetter, Original, Reason, dead_letter
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.outcomes.replays import Action, Replayer, ReplayFenced
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import ReplayHeader, result_key
from darkroom.schemas.settings import Settings
from tests.integration.by_hand import CountingDevice
from tests.integration.in_process import Producer, running_worker
from tests.producer.answering import Answerer, answered_of, source_of
from tests.producer.deployments import deployment_on
from tests.producer.examples import NOON, answered, success

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

TRACE = [("traceparent", b"00-" + b"0" * 31 + b"1-" + b"0" * 15 + b"1-01"), ("odd", b"\xff\x00")]


@dataclass
class Deployment:
    """Topics and a bucket of its own, and the command line on them."""

    settings: Settings
    environment: dict[str, str]
    objects: MinioObjects
    letters: dict[str, DeadLetter] = field(default_factory=dict)

    async def dlq(self, *arguments: str) -> Result:
        """`darkroom dlq ...` in a thread, as it has an event loop of its own."""
        return await asyncio.to_thread(CliRunner().invoke, dlq, list(arguments), env=self.environment)

    async def told(self, *arguments: str) -> list[dict[str, Any]]:
        """What it printed as JSON lines, successfully."""
        result = await self.dlq(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    async def die(self, *request_ids: str, worker: str = "worker-0") -> list[str]:
        """Requests that killed their workers: failed outcomes, completions and letters. Returns the letters' ids."""
        async with Producer(self.settings) as producer, Answerer(self.settings) as answerer:
            for request_id in request_ids:
                value = GenerationRequest(request_id=request_id, prompt="a figure", steps=2).model_dump_json().encode()
                await producer.put(value, key=request_id.encode(), headers=TRACE)
            names = []
            records = [one for one in await answerer.take(await self.records()) if one.key.decode() in request_ids]
            for record in records:
                outcome = completions.failed(answered_of(record), "worker_crash", "2 workers died", completed_at=NOON)
                assert await Outcomes(self.objects).decide(outcome) == outcome
                letter = dead_letter(
                    Original(source_of(record), record.key, record.value, record.headers),
                    Reason("worker_crash", "2 workers died", 2, worker),
                    request_id=outcome.request_id,
                    bucket=self.settings.s3.bucket,
                    record_bytes_max=self.settings.topics.max_message_bytes,
                )
                at = {record.partition: (record.offset + 1, "")}
                await answerer.publish([outcome, letter], offsets=at)
                names.append(f"{record.topic}-{record.partition}-{record.offset}")
        return names

    async def records(self) -> int:
        """Committed records of the request topic."""
        return len(await self.read())

    async def read(self) -> list[Any]:
        """They."""
        async with TopicReader(self.settings.kafka, (self.settings.topics.requests,)) as reader:
            unread = await reader.stable_ends()
            reader.start_at(await reader.beginnings())
            records: list[Any] = []
            while unread:
                records += await reader.read(0.1)
                unread = {place: end for place, end in unread.items() if await reader.position(place) < end}
            return records

    async def outcome(self, request_id: str) -> Completion | None:
        """What stands."""
        return await Outcomes(self.objects).find("default", request_id)

    async def serve_one(self, settings: Settings, place: tuple[int, int]) -> Completion:
        """Let a worker answer a record."""
        async with running_worker(settings, LaneEngine(CountingDevice(), rows_max=8)), Producer(settings) as producer:
            [answer] = (await producer.answers({place}))[place]
        return answer  # type: ignore[no-any-return]


@pytest.fixture
async def deployment(stack: Stack) -> Any:
    made = deployment_on(stack.environment)(
        topics__requests_partitions=1, topics__max_message_bytes=65_536, limits__request_bytes_max=65_000
    )
    environment = {
        **stack.environment,
        "DARKROOM_TOPICS__PREFIX": made.topics.prefix,
        "DARKROOM_S3__BUCKET": made.s3.bucket,
    }
    await ensure_topics(made)
    async with MinioObjects(made.s3) as objects:
        await objects.ensure_bucket(1)
        yield Deployment(made, environment, objects)


def place_of(name: str) -> tuple[int, int]:
    _, partition, offset = name.rsplit("-", 2)
    return int(partition), int(offset)


async def test_a_request_that_killed_its_workers_is_replayed_once_and_gets_a_new_outcome(
    deployment: Deployment,
) -> None:
    [name] = await deployment.die("order-1")
    [listed] = await deployment.told("list")
    assert (listed["id"], listed["code"], listed["request_id"], listed["attempts"]) == (
        name,
        "worker_crash",
        "order-1",
        2,
    )
    assert listed["replayed_as"] is None
    table = (await deployment.dlq("list")).stdout
    assert name in table
    assert "2 workers died" in table

    [dry] = await deployment.told("replay", name, "--dry-run")
    assert (dry["action"], dry["took_back"]) == ("would_replay", "default/order-1/result.json")
    assert await deployment.outcome("order-1") is not None
    assert await deployment.records() == 1

    [done] = await deployment.told("replay", name)
    assert (done["action"], done["took_back"]) == ("replayed", "default/order-1/result.json")
    assert await deployment.outcome("order-1") is None
    first, second = await deployment.read()
    assert (second.key, second.value) == (first.key, first.value)
    assert second.headers == (*first.headers, (ReplayHeader.OF.value, name.encode()))

    [again] = await deployment.told("replay", name)
    assert (again["action"], again["replayed_as"]) == ("already_replayed", done["replayed_as"])
    assert await deployment.told("replay", "--all") == []
    assert await deployment.records() == 2

    completion = await deployment.serve_one(deployment.settings, place_of(done["replayed_as"]))
    assert (completion.status.value, completion.replayed) == ("succeeded", False)
    standing = await deployment.outcome("order-1")
    assert standing is not None
    assert standing.source == completion.source
    [after] = await deployment.told("list")
    assert after["replayed_as"] == done["replayed_as"]
    report = await audit(deployment.settings, deployment.objects)
    assert report.is_clean
    assert (report.records, report.succeeded, report.failed, report.dead_lettered) == (2, 1, 1, 1)


async def test_what_a_limit_refused_is_stored_shown_and_rendered_once_the_limit_is_raised(
    deployment: Deployment,
) -> None:
    strict = deployment.settings.model_copy(
        update={"limits": deployment.settings.limits.model_copy(update={"request_bytes_max": 1024})}
    )
    value = json.dumps({"request_id": "large", "prompt": "a figure", "steps": 2, "padding": "x" * 64_900}).encode()
    async with running_worker(strict, LaneEngine(CountingDevice(), rows_max=8)), Producer(strict) as producer:
        place = await producer.put(value, key=b"large", headers=TRACE)
        await producer.answers({place})
    [listed] = await deployment.told("list")
    assert (listed["code"], listed["request_id"], listed["stored"]) == ("request_too_large", None, True)
    assert (await deployment.dlq("show", listed["id"], "--raw")).stdout_bytes == value
    shown = (await deployment.dlq("show", listed["id"])).stdout
    assert "key: large" in shown
    assert "header odd: \\xff\\x00" in shown, "nothing that a terminal would obey"
    [done] = await deployment.told("replay", "--all")
    assert (done["action"], done["took_back"]) == ("replayed", None)
    completion = await deployment.serve_one(deployment.settings, place_of(done["replayed_as"]))
    assert completion.status.value == "succeeded"


async def test_one_that_no_longer_fits_its_topic_costs_the_others_nothing(deployment: Deployment) -> None:
    settings = deployment.settings
    largest = os.urandom(settings.topics.max_message_bytes - 90)  # no room for one header more, however compressed
    async with running_worker(settings, LaneEngine(CountingDevice(), rows_max=8)), Producer(settings) as producer:
        places = [await producer.put(value, key=None) for value in (largest, b"no request")]
        await producer.answers(set(places))
    result = await deployment.dlq("replay", "--all", "--json")
    assert result.exit_code == 1
    first, second = sorted((json.loads(line) for line in result.stdout.splitlines()), key=lambda one: one["id"])
    assert (first["action"], second["action"]) == ("failed", "replayed")
    assert "raise that topic's max.message.bytes" in first["message"]
    assert [one.value for one in await deployment.read()] == [largest, b"no request", b"no request"]


async def test_an_interrupted_replay_is_finished_by_the_next(deployment: Deployment) -> None:
    before, inside = await deployment.die("before", "inside")
    settings = deployment.settings
    await deployment.objects.delete(result_key("default", "before"))  # it died before anything was published
    dying = AIOKafkaProducer(
        **kafka_arguments(settings.kafka), transactional_id=f"{settings.topics.dead_letters}-replay"
    )
    await dying.start()
    await dying.begin_transaction()
    of = [(ReplayHeader.OF.value, inside.encode())]
    await dying.send_and_wait(settings.topics.requests, b"half of it", headers=of)
    await dying.send_and_wait(settings.topics.dead_letters, b"", key=inside.encode(), headers=of)
    done = await deployment.told("replay", "--all")
    await dying.stop()
    assert {one["id"]: (one["action"], one["took_back"]) for one in done} == {
        before: ("replayed", None),
        inside: ("replayed", "default/inside/result.json"),
    }
    assert [one.key for one in await deployment.read()] == [b"before", b"inside"] * 2


async def test_of_two_replays_at_once_one_goes_on(deployment: Deployment) -> None:
    [name] = await deployment.die("order-1")
    settings, objects = deployment.settings, deployment.objects
    async with DeadLetterLog(settings, objects) as log, Replayer(settings, objects, log) as first:
        [letter] = await log.letters(Filter(frozenset({name})))
        async with Replayer(settings, objects, log) as second:
            with pytest.raises(ReplayFenced):
                await first.replay(letter)
            assert await deployment.outcome("order-1") is not None, "who is fenced takes nothing back"
            assert (await second.replay(letter)).action is Action.REPLAYED
    assert await deployment.records() == 2


async def test_an_outcome_that_is_not_this_records_failure_is_left(deployment: Deployment) -> None:
    resent, done = await deployment.die("resent", "done")
    failed = completions.failed(
        answered(request_id="resent", tenant="default"), "render_failed", "x", completed_at=NOON
    )
    for standing in (failed, success(request_id="done", tenant="default")):
        key = result_key("default", standing.request_id)
        await deployment.objects.put(key, standing.model_dump_json().encode(), "application/json")
    first, second = await deployment.told("replay", resent, done)
    assert (first["action"], second["action"]) == ("not_needed", "not_needed")
    assert "decided as failed by the record generation.requests-0-17" in first["message"]
    assert "decided as succeeded by the record generation.requests-0-17" in second["message"]
    assert await deployment.outcome("resent") == failed
    assert await deployment.records() == 2


async def test_filters_choose(deployment: Deployment) -> None:
    first = await deployment.die("a", "b", worker="worker-0")
    second = await deployment.die("c", worker="worker-1")
    now = datetime.now(UTC)
    later, earlier = ((now + timedelta(minutes=change)).isoformat() for change in (5, -5))

    async def ids(*arguments: str) -> list[str]:
        return [one["id"] for one in await deployment.told("list", *arguments)]

    assert await ids() == first + second
    assert await ids("--worker", "worker-1") == second
    assert await ids("--code", "invalid_request") == []
    assert await ids("--code", "invalid_request", "--code", "worker_crash") == first + second
    assert await ids("--since", earlier, "--until", later) == first + second
    assert await ids("--since", later) == await ids("--until", earlier) == await ids("--until", "5m") == []
    assert await ids("--since", "5m") == first + second
    assert await ids("--topic-partition-offset", first[1]) == [first[1]]
    limited = await deployment.dlq("list", "--limit", "1", "--json")
    assert json.loads(limited.stdout)["id"] == second[0]
    assert "2 older ones are not shown" in limited.stderr
    replayed = await deployment.told("replay", "--all", "--worker", "worker-0", "--limit", "1")
    assert [one["id"] for one in replayed] == first[:1]


async def test_what_cannot_be_done_is_one_sentence(deployment: Deployment) -> None:
    [name] = await deployment.die("order-1")
    for arguments in (["show", "nowhere-0-1"], ["replay", name, "nowhere-0-1"]):
        result = await deployment.dlq(*arguments)
        assert result.exit_code == 1
        assert "There is no dead letter nowhere-0-1." in result.stderr
    for arguments in (["replay"], ["replay", name, "--all"], ["replay", name, "--code", "x"], ["list", "--since", "x"]):
        assert (await deployment.dlq(*arguments)).exit_code == 2
    await deployment.objects.put(result_key("default", "order-1"), b"rubbish", "application/json")
    unreadable = await deployment.dlq("replay", name)
    assert unreadable.exit_code == 1
    assert "stands where a decided outcome belongs" in unreadable.stdout
    assert "1 of 1 dead letters could not be replayed" in unreadable.stderr
    assert await deployment.records() == 1


async def test_a_person_at_a_terminal_is_asked(deployment: Deployment) -> None:
    [name] = await deployment.die("order-1")
    for answer, records in ((b"n\n", 1), (b"y\n", 2)):
        process, terminal = _at_a_terminal(deployment.environment, name)
        os.write(terminal, answer)
        _, err = await asyncio.to_thread(process.communicate, timeout=60)
        os.close(terminal)
        assert b"Replay 1 dead letter?" in err
        assert (process.returncode, await deployment.records()) == (0 if records == 2 else 1, records)


def _at_a_terminal(environment: dict[str, str], name: str) -> tuple[subprocess.Popen[bytes], int]:
    """The command with a terminal as its standard input, and the terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "darkroom", "dlq", "replay", name],
        env={**os.environ, **environment},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    return process, ours
