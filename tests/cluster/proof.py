"""Workers, a gateway, `init` and the audit beside each other on brokers that are restarted one after the other.

Every broker in turn is stopped cleanly, killed or frozen, each time until all replicas are in sync again, as whoever
restarts a cluster does. Between the rounds other things befall the group: a member of the new protocol joins, the
right to read is withdrawn and given back, an administrator changes topics, the user is limited by quotas. All the while
certificates are issued anew, callers make jobs by HTTP, and Kafka's own console consumers come and go. Topics are an
administrator's, with Kafka's defaults. Then it is asked whether every record has its one outcome, and how long
readiness took to say what was the matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import urllib3
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from darkroom.consumer.audit.audit import audit
from darkroom.consumer.cli.init import _init
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.names import Topic
from darkroom.schemas.rights import Resource, Right, Role, rights_of
from darkroom.schemas.settings import Settings, load_settings
from tests.chaos.traffic import Mix, Traffic
from tests.chaos.verdict import Verdict, judge
from tests.chaos.watch import Book, Watcher
from tests.cluster.brokers import APP, APP_PASSWORD, Brokers
from tests.cluster.callers import Callers
from tests.cluster.certificates import Certificates
from tests.cluster.quotas import limited
from tests.cluster.readiness import Timeline, follow
from tests.cluster.rights import grant, withdraw
from tests.cluster.strangers import Strangers
from tests.integration.fleet import WorkerProcess
from tests.new_protocol_member import joined_by_new_protocol

READY_S_MAX = 120.0
UNREADY_WITHIN_S = 15.0
READY_WITHIN_S = 30.0
IN_SYNC_S_MAX = 90.0
FINISH_S_MAX = 240.0
DRAIN_S_MAX = 60.0
INIT_EVERY_S = 3.0
AUDIT_EVERY_S = 20.0
FROZEN_S = 20.0
DOWN_S = 3.0
WITHDRAWN_S = 25.0
GUEST_S = 10.0
LIMITED_S = 20.0
LIMITS = {"producer_byte_rate": 20_000.0, "consumer_byte_rate": 20_000.0, "request_percentage": 20.0}
"""What ten requests a second need, or a little less."""
RENEW_S = 45.0
CLIENT_VALID_FOR = datetime.timedelta(minutes=4)
"""Longer than a renewal may be late: a broker's start comes between."""
STRANGE_S, STRANGE_EVERY_S = 25.0, 60.0
STEP_MS = 20
SESSION_END_MS = 20_000
WAYS = ("stop", "kill", "freeze")
ROLES = (Role.WORKER, Role.GATEWAY, Role.INIT, Role.AUDIT, Role.SEND)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is made of."""

    seconds: float
    """No round begins after so long."""
    rounds_max: int = sys.maxsize
    """Of restarts: one round is one broker."""
    rate_per_s: float = 10.0
    workers: int = 2
    rows: int = 8
    """On a device at once."""
    ways: tuple[str, ...] = WAYS
    extras: bool = True
    """A guest, a withdrawn right, quotas and an administrator's changes between the rounds."""
    seed: int = 1
    partitions: int = 6
    jars: Path | None = None
    """Another version of Kafka than the embedded one."""
    tools: Path | None = None
    """Kafka's jars with its tools: without them there are no console consumers."""


_BAD = ("lowered", "bad_audits", "wrong_jobs", "told_wrongly", "slow")


@dataclass(slots=True)
class Outcome:
    """What a run showed."""

    verdict: Verdict
    initialized: int = 0
    refused_to_initialize: list[str] = field(default_factory=list)
    lowered: list[str] = field(default_factory=list)
    """Partitions whose offset `init` found absent although workers had them."""
    audits: int = 0
    bad_audits: list[str] = field(default_factory=list)
    jobs_by_http: int = 0
    wrong_jobs: list[str] = field(default_factory=list)
    """Jobs that were made by HTTP, and of which HTTP told no success in time."""
    read_by_strangers: int = 0
    """Request records of which console consumers were told."""
    told_wrongly: list[str] = field(default_factory=list)
    """Request records for which console consumers were told two completions, or none."""
    renewals: int = 0
    """Of all certificates."""
    slow: list[str] = field(default_factory=list)
    """Readiness that was not what it should be in time."""
    busy: dict[str, float] = field(default_factory=dict)
    """By worker, the share of the time of restarts in which its device made steps."""
    waits: dict[str, float] = field(default_factory=dict)
    """By worker, the share of that time in which its device stood still although the worker had rows for it."""
    unready_s: dict[str, float] = field(default_factory=dict)
    """By kind of restart, the longest time without a "ready" from any one process."""
    unready_reasons: dict[str, set[str]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or too slow."""
        return self.verdict.is_good and not any(getattr(self, name) for name in _BAD)

    def table(self) -> str:
        """For people."""
        lines = [
            self.verdict.table(),
            f"  init ran {self.initialized} times beside it, and refused {len(self.refused_to_initialize)} times",
            *(f"        {one}" for one in sorted(set(self.refused_to_initialize))[:6]),
            f"  audits beside it: {self.audits}; jobs by HTTP: {self.jobs_by_http}; certificates issued anew: "
            f"{self.renewals} times; outcomes read by console consumers: {self.read_by_strangers}",
        ]
        for name in _BAD:
            found = getattr(self, name)
            lines += [f"  {len(found):4}  {name.replace('_', ' ')}", *(f"        {one}" for one in found[:20])]
        lines += [f"  {one}: device busy {share:.2f}" for one, share in self.busy.items()]
        lines += [f"  {one}: device idle beside work {share:.3f}" for one, share in self.waits.items()]
        for kind, seconds in self.unready_s.items():
            lines.append(f"  longest without a ready while a broker was {kind}: {seconds:.1f} s")
            lines += [f"        {reason}" for reason in sorted(self.unready_reasons.get(kind, ()))[:4]]
        return "\n".join([*lines, "", "GOOD" if self.is_good else "BAD"])


async def run(plan: Plan, store_environment: dict[str, str], folder: Path) -> Outcome:
    """Run a plan. The store is somebody else's; the brokers are the run's own, in `folder`."""
    properties = {"connections.max.reauth.ms": str(SESSION_END_MS)}
    certificates = Certificates(folder / "certificates", 3, client_valid_for=CLIENT_VALID_FOR)
    cluster = Brokers(folder / "brokers", 3, properties, users_log_in=True, certificates=certificates, jars=plan.jars)
    brokers = await asyncio.to_thread(cluster.__enter__)
    try:
        return await _Proof(plan, brokers, certificates, store_environment, folder).run()
    finally:
        await asyncio.to_thread(brokers.__exit__)


class _Proof:
    def __init__(
        self, plan: Plan, brokers: Brokers, certificates: Certificates, store_environment: dict[str, str], folder: Path
    ) -> None:
        name = f"rolling-{uuid.uuid4().hex[:8]}"
        self._plan = plan
        self._brokers = brokers
        self._certificates = certificates
        self._starting = asyncio.Lock()
        """Held while a broker reads its certificate."""
        self._folder = folder
        common = {
            **store_environment,
            "TMPDIR": str(folder),
            "DARKROOM_TOPICS__PREFIX": f"{name}.",
            "DARKROOM_TOPICS__REQUESTS_PARTITIONS": str(plan.partitions),
            "DARKROOM_TOPICS__COMPLETIONS_PARTITIONS": "3",
            "DARKROOM_TOPICS__REPLICATION_FACTOR": "3",
            "DARKROOM_KAFKA__GROUP_ID": name,
            "DARKROOM_KAFKA__SESSION_TIMEOUT_MS": "10000",
            "DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": "8000",
            "DARKROOM_KAFKA__TRANSACTION_TIMEOUT_MS": "10000",
            "DARKROOM_S3__BUCKET": name,
            "DARKROOM_LOG__LEVEL": "debug",
        }
        self._administrator = load_settings(
            environ={**common, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
        )
        self._environment = {
            **common,
            "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.users_bootstrap_servers,
            "DARKROOM_KAFKA__SECURITY_PROTOCOL": brokers.users_protocol,
            "DARKROOM_KAFKA__SSL_CAFILE": str(certificates.trusted),
            "DARKROOM_KAFKA__SSL_CERTFILE": str(certificates.client),
            "DARKROOM_KAFKA__SSL_KEYFILE": str(certificates.client),
            "DARKROOM_KAFKA__SASL_MECHANISM": "PLAIN",
            "DARKROOM_KAFKA__SASL_USERNAME": APP,
            "DARKROOM_KAFKA__SASL_PASSWORD": APP_PASSWORD,
        }
        self._settings: Settings = load_settings(environ=self._environment)
        self._outcome = Outcome(Verdict(plan.seed, f"the simulated device with {STEP_MS} ms steps", 0.0))
        self._book = Book()
        self._workers: list[WorkerProcess] = []
        self._timelines: list[Timeline] = []
        self._strangers: Strangers | None = None
        if plan.tools is not None:
            java = brokers.java(jars=plan.tools)
            self._strangers = Strangers(java, brokers.bootstrap_servers, self._settings.topics.completions, folder)

    async def run(self) -> Outcome:
        started = time.monotonic()
        await self._make_topics()
        await _init(self._administrator, grow_partitions=False)
        async with self._admin() as admin:
            for role in ROLES:
                for right in rights_of(role, prefix=self._settings.topics.prefix, group_id=self._group):
                    await grant(admin, APP, right)
        mix = Mix(self._plan.seed, steps=(10, 20, 30, 40), markers=False)
        traffic = Traffic(self._administrator, mix, self._book)
        async with self._running() as gateway, self._beside(self._watch, self._renew):
            await self._all_ready(READY_S_MAX)
            say("all are ready")
            begun = time.monotonic()
            callers = Callers(gateway.url, mix.sent)
            async with self._beside(
                self._initialize,
                self._audit,
                self._strange,
                callers.run,
                lambda: traffic.run(self._plan.rate_per_s, self._plan.seed),
            ):
                await self._rounds()
            self._measure(begun)
            say("no more restarts; waiting until everything is finished")
            await traffic.finish(FINISH_S_MAX)
            await callers.finish()
            self._outcome.jobs_by_http, self._outcome.wrong_jobs = callers.answered, callers.wrong
            await until(lambda: not self._book.waiting, FINISH_S_MAX)
            await self._report(mix)
            await self._ask_strangers()
            self._outcome.verdict.unclean_ends = await asyncio.to_thread(self._drain)
        await traffic.stop()
        self._outcome.verdict.seconds = time.monotonic() - started
        return self._outcome

    @property
    def _group(self) -> str:
        return self._settings.kafka.group_id

    # --- What runs ---------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Gateway]:
        flags = ("--simulated-device", str(STEP_MS), "--max-rows", str(self._plan.rows))
        self._workers = [
            WorkerProcess(self._environment, self._folder, f"worker{number}", *flags)
            for number in range(self._plan.workers)
        ]
        gateway = Gateway(self._environment, self._folder)
        asking = []
        for name, url in [*((one.name, one.url) for one in self._workers), ("gateway", gateway.url)]:
            self._timelines.append(Timeline(name))
            asking.append(asyncio.create_task(follow(self._timelines[-1], _ready_address(url))))
        try:
            yield gateway
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            gateway.stop()
            for worker in self._workers:
                if worker.process.poll() is None:
                    worker.kill()

    @contextlib.asynccontextmanager
    async def _beside(self, *works: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(work()) for work in works]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            while running := [task for task in tasks if not task.done()]:
                for task in running:
                    task.cancel()  # again: see `TaskSupervisor.close`
                await asyncio.wait(running, timeout=1.0)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        await Watcher(self._administrator, self._book).run()

    async def _initialize(self) -> None:
        """Run `init` without pause, as a deployment does at every upgrade: it may refuse, and lower nothing."""
        while True:
            await asyncio.sleep(INIT_EVERY_S)
            try:
                done = await _init(self._settings, grow_partitions=False)
            except KafkaUnavailable as error:
                self._outcome.refused_to_initialize.append(str(error))
                continue
            self._outcome.initialized += 1
            if done["offsets"]["committed"]:
                self._outcome.lowered.append(f"{done['offsets']['committed']} were taken to have no offset")

    async def _audit(self) -> None:
        async with MinioObjects(self._settings.s3) as objects:
            while True:
                await asyncio.sleep(AUDIT_EVERY_S)
                with contextlib.suppress(KafkaUnavailable):
                    report = await audit(self._settings, objects)
                    self._outcome.audits += 1
                    if not report.is_clean:
                        self._outcome.bad_audits.append(str(report.as_dict()))

    async def _make_topics(self) -> None:
        """As an administrator who knows nothing of Darkroom: all that Kafka has a default for has that."""
        topics = self._settings.topics
        async with self._admin() as admin:
            counts = dict.fromkeys(Topic, topics.completions_partitions)
            counts[Topic.REQUESTS] = topics.requests_partitions
            await admin.create_topics([NewTopic(topics.name(topic), count, 3) for topic, count in counts.items()])

    async def _renew(self) -> None:
        """Issue all certificates anew, again and again."""
        while True:
            await asyncio.sleep(RENEW_S)
            async with self._starting:
                await asyncio.to_thread(self._certificates.renew)
            self._outcome.renewals += 1

    async def _strange(self) -> None:
        """Let console consumers come and go."""
        while self._strangers is not None:
            await self._strangers.read(STRANGE_S)
            await asyncio.sleep(STRANGE_EVERY_S)

    async def _ask_strangers(self) -> None:
        if self._strangers is None:
            return
        await self._strangers.read_all()
        told = self._strangers.told()
        self._outcome.read_by_strangers = len(told)
        for spot in sorted(told.keys() | self._book.completions.keys()):
            if len(places := told.get(spot, set())) != 1:
                self._outcome.told_wrongly.append(f"partition {spot[0]}, offset {spot[1]}: told at {sorted(places)}")

    # --- What befalls them -------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        until_at = time.monotonic() + self._plan.seconds
        befalling = [self._guest, self._withdraw, self._administrate, self._limit, self._two_frozen]
        extras = itertools.cycle(befalling)
        nodes = itertools.cycle(range(self._brokers.count))
        for number, way in enumerate(itertools.cycle(self._plan.ways)):
            if time.monotonic() > until_at or number >= self._plan.rounds_max:
                return
            if number % self._brokers.count == 0 and number:
                next(nodes)  # each node meets each way
            node = next(nodes)
            await self._restart(node, way)
            if self._plan.extras and time.monotonic() < until_at:
                await next(extras)()

    async def _restart(self, node: int, way: str) -> None:
        kind = {"stop": "stopped", "kill": "killed", "freeze": "frozen"}[way]
        since = time.monotonic()
        match way:
            case "freeze":
                with self._brokers.frozen(node):
                    await asyncio.sleep(FROZEN_S)
            case _:
                await asyncio.to_thread(self._brokers.stop if way == "stop" else self._brokers.kill, node)
                await asyncio.sleep(DOWN_S)
                async with self._starting:
                    self._brokers.start(node)
                    await asyncio.to_thread(self._brokers.wait_until_ready, node)
        await self._in_sync()
        back = time.monotonic()
        await self._ready_again(back, f"broker {node} was {kind}")
        worst = max(one.longest_unready_s(since, time.monotonic()) for one in self._timelines)
        self._outcome.unready_s[kind] = max(worst, self._outcome.unready_s.get(kind, 0.0))
        reasons = {
            f"{one.name}: {reason}"
            for one in self._timelines
            for answer in one.unready(since, time.monotonic())
            for reason in answer.reasons
        }
        self._outcome.unready_reasons.setdefault(kind, set()).update(reasons)
        say(
            f"broker {node} {kind}: {back - since:.1f} s until all replicas were in sync; longest without a ready "
            f"{worst:.1f} s; {len(self._book.waiting)} records wait"
        )

    async def _guest(self) -> None:
        """A consumer of the new protocol tries to join; the group may refuse it."""
        with contextlib.suppress(KafkaError):
            async with joined_by_new_protocol(
                self._administrator.kafka.bootstrap_servers, self._group, "guest", self._settings.topics.requests
            ):
                say("a guest of the new protocol is in the group")
                await asyncio.sleep(GUEST_S)
        await self._ready_again(time.monotonic(), "a guest of the new protocol left")

    async def _withdraw(self) -> None:
        right = Right("Read", Resource.GROUP, self._group)
        say(f"{right.operation} on the group is withdrawn")
        async with self._admin() as admin:
            since = time.monotonic()
            await withdraw(admin, APP, right)
            await asyncio.sleep(WITHDRAWN_S)
            self._not_ready_since(since, "the right to read the group was withdrawn")
            await grant(admin, APP, right)
        await self._ready_again(time.monotonic(), "the right to read the group was given back")

    async def _two_frozen(self) -> None:
        """Nothing can be written with one replica of three."""
        say("two brokers are frozen")
        since = time.monotonic()
        with self._brokers.frozen(0), self._brokers.frozen(1):
            await asyncio.sleep(WITHDRAWN_S)
            self._not_ready_since(since, "two of three brokers were frozen")
        await self._in_sync()
        await self._ready_again(time.monotonic(), "two of three brokers were thawed")

    async def _limit(self) -> None:
        say("the user is limited by quotas")
        async with self._admin() as admin, limited(admin, APP, LIMITS):
            await asyncio.sleep(LIMITED_S)
        await self._ready_again(time.monotonic(), "the quotas were taken away")

    async def _administrate(self) -> None:
        say("an administrator changes topics")
        topics = self._settings.topics
        async with self._admin() as admin:
            for topic in (topics.completions, topics.dead_letters, topics.requests):
                changes = {"max.message.bytes": "1048588", "segment.bytes": "1048576"}
                await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, changes)])

    # --- What is asked -----------------------------------------------------------------------------------

    async def _all_ready(self, limit_s: float) -> None:
        since = time.monotonic()
        if not await until(lambda: all(one.first(since, ready=True) for one in self._timelines), limit_s):
            raise AssertionError(f"not ready: {[one.answers[-1:] for one in self._timelines]}")

    async def _ready_again(self, since: float, what: str) -> None:
        """Wait until every process says that it is ready; note those that take too long."""
        await until(lambda: all(one.first(since, ready=True) for one in self._timelines), 4 * READY_WITHIN_S)
        for one in self._timelines:
            first = one.first(since, ready=True)
            if first is None or first.at - since > READY_WITHIN_S:
                after = "never" if first is None else f"{first.at - since:.1f} s later"
                said = one.answers[-1].reasons if one.answers else ()
                self._outcome.slow.append(f"{one.name}: {what}, ready {after} {said}")

    def _not_ready_since(self, since: float, what: str) -> None:
        """Every worker must have said within `UNREADY_WITHIN_S` that nothing is taken."""
        for one in self._timelines:
            if one.name == "gateway":
                continue  # it takes jobs whatever becomes of the group
            first = one.first(since, ready=False)
            if first is None or first.at - since > UNREADY_WITHIN_S:
                after = "never" if first is None else f"{first.at - since:.1f} s later"
                self._outcome.slow.append(f"{one.name}: {what}, not ready {after}")
            elif one.answers[-1].ready:
                self._outcome.slow.append(f"{one.name}: {what}, and it called itself ready again meanwhile")

    async def _in_sync(self) -> None:
        """Wait until every partition has all its replicas in sync, as whoever restarts a cluster does."""
        deadline = time.monotonic() + IN_SYNC_S_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with self._admin() as admin, asyncio.timeout(8):
                    topics = await admin.describe_topics()
                    if all(len(one["isr"]) == len(one["replicas"]) for topic in topics for one in topic["partitions"]):
                        return
            await asyncio.sleep(0.5)
        say("WARNING: replicas are not in sync")

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._brokers.bootstrap_servers, request_timeout_ms=8000)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    def _measure(self, begun: float) -> None:
        wall_s = time.monotonic() - begun
        for worker in self._workers:
            if worker.process.poll() is not None:
                self._outcome.slow.append(f"{worker.name} ended by itself with {worker.process.returncode}")
                continue
            text = urllib3.request("GET", worker.url("/metrics"), timeout=5.0).data.decode()
            sums = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if "_sum" in line}
            self._outcome.busy[worker.name] = sums["darkroom_step_seconds_sum"] / wall_s
            self._outcome.waits[worker.name] = sums["darkroom_device_wait_seconds_sum"] / wall_s

    async def _report(self, mix: Mix) -> None:
        async with MinioObjects(self._settings.s3) as objects:
            report = await audit(self._settings, objects)
        await until(
            lambda: len(self._book.completions.keys() | self._book.dead_letters.keys()) >= report.records,
            READY_WITHIN_S,
        )
        judge(self._outcome.verdict, self._book, mix.sent, report)

    def _drain(self) -> list[str]:
        ends = {worker.name: worker.drain(DRAIN_S_MAX) for worker in self._workers}
        return [f"{name} ended with {code}" for name, code in ends.items() if code]


class Gateway:
    """`darkroom gateway` in a process of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._log = folder / "gateway.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", "gateway", "--port", "0"],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def url(self, path: str) -> str:
        """An address of its. Raises `LookupError` while it has none."""
        for line in self._log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == "listening":
                    return f"http://127.0.0.1:{entry['port']}{path}"
        raise LookupError("it does not listen yet")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _ready_address(url: Callable[[str], str]) -> Callable[[], str | None]:
    known: list[str] = []

    def address() -> str | None:
        if not known:
            with contextlib.suppress(LookupError):
                known.append(url("/readyz"))
        return known[0] if known else None

    return address


async def until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Wait for a condition or the limit. Returns whether the condition came true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


def say(line: str) -> None:
    """Tell how it goes."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
