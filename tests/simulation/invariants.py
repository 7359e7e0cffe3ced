"""The promises, each checked by name at the event that could break it.

| name | checked when |
|---|---|
| `one_outcome_per_record` | a transaction is committed |
| `outcome_before_publication` | a transaction is committed: what it publishes stands in the store |
| `published_is_what_stands` | the same: status, pictures, error and source are those of what stands |
| `committed_never_passes_unfinished` | an offset is committed, by whomever |
| `map_names_what_was_published` | an offset is committed |
| `committed_offset_never_falls` | an offset is committed |
| `an_outcome_is_one_of_its_requests` | a completion is committed: an innocent request never fails |
| `one_publication_per_writer` | a worker begins to publish |
| `ownership_is_proved_after_a_fence` | a worker takes a partition over |
| `journal_before_the_device` | a job is handed to the engine |
| `suspects_run_alone` | a job is handed to the engine |
| `one_render_per_identity` | a job is handed to the engine |
| `outcomes_are_put_conditionally` | an object is put |
| `a_drain_is_no_crash` | an object is put that calls a worker crashed |
| `bounds_hold` | after every event of a core |
| `the_worker_fails_only_as_it_says` | a worker's process ends, or a callback raises |
| `a_drain_ends_in_time`, `no_task_is_left` | a drained process ends |
| `time_goes_on` | the event loop turns |
| `everything_ends` | the faults are over and the time limit has come |
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from darkroom.consumer.core.core import Core
from darkroom.consumer.core.journal import Entry
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import METADATA_CHARS_MAX, decode_commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.worker.payload import Payloads
from darkroom.consumer.worker.ports import OutgoingRecord
from darkroom.producer.outcomes.dead_letters import origin
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.names import Topic, result_key
from darkroom.schemas.wire.codec import decode_completion
from tests.simulation.kafka import TOPIC, Partition, Transaction
from tests.simulation.requests import CONFLICT, CRASHED, Ending, Requests, Sent
from tests.simulation.wire import at_once


class Violation(AssertionError):  # noqa: N818 - it is the simulation's word
    """A promise was broken: the invariant's name and what was seen."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name


class Invariants:
    """What the promises need to be remembered, and the checks."""

    def __init__(self, fail: Callable[[Violation], None]) -> None:
        self._fail = fail
        self.requests: Requests | None = None
        self.memory = MemoryObjects()
        self.endings: dict[PartitionKey, dict[int, list[Ending]]] = defaultdict(lambda: defaultdict(list))
        """Committed completions by the offset that they answer."""
        self.letters: dict[PartitionKey, Counter[int]] = defaultdict(Counter)
        self.replays: dict[PartitionKey, set[int]] = defaultdict(set)
        """Offsets that were answered with another record's outcome: those have no dead letter of their own."""
        self.excused: dict[PartitionKey, Counter[int]] = defaultdict(Counter)
        """Offsets that a map which was damaged had named: they may be published once more each time."""
        self.journals: dict[tuple[str, PartitionKey], Mapping[int, Entry]] = {}
        self._committed: dict[PartitionKey, int] = {}
        self._fenced: set[tuple[str, PartitionKey]] = set()
        self._publishing: set[tuple[str, PartitionKey, int]] = set()
        self.drained: set[str] = set()
        """Boots that ended because they were told to, with the store there to note it."""
        self.statuses: Counter[str] = Counter()

    def check(self, name: str, holds: bool, detail: Callable[[], str]) -> None:
        """Report a violation unless it holds."""
        if not holds:
            self._fail(Violation(name, detail()))

    # --- Kafka ---------------------------------------------------------------------------------------------

    def on_commit(self, partition: Partition, transaction: Transaction) -> None:
        """A transaction is seen by readers from now on."""
        for record in transaction.records:
            self._published(partition, record)
        key, base = partition.key, transaction.offset
        commit = decode_commit(key, base, transaction.metadata)
        self.check("map_names_what_was_published", commit.is_verified, lambda: f"{key}: a map that does not verify")
        self.check(
            "committed_offset_never_falls", base >= self._committed.get(key, 0), lambda: f"{key}: back to {base}"
        )
        self.check(
            "bounds_hold", len(transaction.metadata) <= METADATA_CHARS_MAX, lambda: f"{key}: metadata is too long"
        )
        self._committed[key] = base
        self.journals[transaction.writer, key] = commit.journal.entries
        for offset, sent in enumerate(partition.log):
            if sent is None:
                continue
            done = offset < base or offset in commit.finished
            published = self._is_published(key, offset)
            self.check(
                "committed_never_passes_unfinished",
                published or not done,
                lambda offset=offset: f"{key}: {offset} is committed without an outcome",  # type: ignore[misc]
            )
            self.check(
                "map_names_what_was_published",
                done or not published or bool(self.excused[key][offset]),
                lambda offset=offset: f"{key}: {offset} has an outcome, commit {base} does not say so",  # type: ignore[misc]
            )

    def _is_published(self, key: PartitionKey, offset: int) -> bool:
        return bool(self.endings[key][offset] or self.letters[key][offset])

    def _published(self, partition: Partition, record: OutgoingRecord) -> None:
        if record.topic == Topic.DEAD_LETTERS.value:
            letter = origin(record.headers)
            assert letter is not None
            key, offset = PartitionKey(letter.source.topic, letter.source.partition), letter.source.offset
            self.letters[key][offset] += 1
            count, sent = self.letters[key][offset], self._sent(partition, offset)
            owed = sent.request_id is None or letter.code == "worker_crash"
            self.check(
                "an_outcome_is_one_of_its_requests", owed, lambda: f"{key} {offset}: a dead letter for {sent.kind}"
            )
        else:
            completion = decode_completion(record.value, record.headers)
            key, offset = PartitionKey(completion.source.topic, completion.source.partition), completion.source.offset
            self._compare_with_store(completion)
            ending = (completion.status.value, completion.error.code.value if completion.error else None)
            self.endings[key][offset].append(ending)
            if completion.replayed:
                self.replays[key].add(offset)
            self.statuses[ending[1] or ending[0]] += 1
            count, sent = len(self.endings[key][offset]), self._sent(partition, offset)
            assert self.requests is not None
            allowed = self.requests.endings(sent) if sent.request_id is not None else frozenset()
            self.check(
                "an_outcome_is_one_of_its_requests",
                ending in allowed and sent.request_id == completion.request_id,
                lambda: f"{key} {offset}: {sent.kind.value} {sent.request_id} ended {ending}: {completion.error}",
            )
        self.check(
            "one_outcome_per_record",
            count <= 1 + self.excused[key][offset] and key == partition.key,
            lambda: f"{key} {offset} was published {count} times",
        )

    def _sent(self, partition: Partition, offset: int) -> Sent:
        sent = partition.log[offset]
        assert sent is not None
        return sent

    def _compare_with_store(self, completion: Completion) -> None:
        standing = self._standing(completion)
        where = f"{completion.tenant}/{completion.request_id}"
        if standing is None:
            self.check("outcome_before_publication", False, lambda: f"{where} was published, and none stands")
        elif standing.source == completion.source:
            self.check("published_is_what_stands", completion == standing, lambda: f"{where}: another one stands")
        elif standing.request_digest != completion.request_digest:
            code = completion.error.code.value if completion.error else None
            self.check("published_is_what_stands", (completion.status.value, code) == CONFLICT, lambda: where)
        else:
            same = (standing.status, standing.images, standing.error) == (
                completion.status,
                completion.images,
                completion.error,
            )
            self.check("published_is_what_stands", same and completion.replayed, lambda: f"{where}: a replay differs")
        for image in completion.images:
            content = at_once(self.memory.get(image.key, bytes_max=1 << 20))
            self.check(
                "published_is_what_stands",
                content is not None and len(content) == image.size_bytes,
                lambda key=image.key: f"{where}: the picture {key} is not there",  # type: ignore[misc]
            )

    def _standing(self, completion: Completion) -> Completion | None:
        content = at_once(self.memory.get(result_key(completion.tenant, completion.request_id), bytes_max=1 << 20))
        return None if content is None else decode_completion(content)

    def damage(self, partition: Partition, metadata: str) -> None:
        """Somebody else wrote other metadata beside the committed offset."""
        assert partition.committed is not None
        base = partition.committed[0]
        partition.committed = (base, metadata)
        for offset in range(base, len(partition.log)):
            if self._is_published(partition.key, offset):
                self.excused[partition.key][offset] += 1

    # --- Writers -------------------------------------------------------------------------------------------

    def publishing(self, boot: str, partition: PartitionKey, epoch: int) -> None:
        """A worker begins a transaction."""
        writer = (boot, partition, epoch)
        self.check("one_publication_per_writer", writer not in self._publishing, lambda: f"{partition}: two at once")
        self._publishing.add(writer)

    def published(self, boot: str, partition: PartitionKey, epoch: int) -> None:
        """It ended, well or badly."""
        self._publishing.discard((boot, partition, epoch))

    def was_fenced(self, client_id: str, partition: PartitionKey) -> None:
        """A worker was told that somebody else took the partition over."""
        self._fenced.add((client_id, partition))

    def proved(self, client_id: str, partition: PartitionKey) -> None:
        """The group says that the partition is the worker's."""
        self._fenced.discard((client_id, partition))

    def assigned(self, client_id: str) -> None:
        """A worker was given its partitions anew."""
        self._fenced = {one for one in self._fenced if one[0] != client_id}

    def taking_over(self, client_id: str, partition: PartitionKey) -> None:
        """A worker fences all earlier writers of the partition."""
        self.check(
            "ownership_is_proved_after_a_fence",
            (client_id, partition) not in self._fenced,
            lambda: f"{client_id} was fenced on {partition} and took it over without asking whose it is",
        )

    # --- The store and the engine --------------------------------------------------------------------------

    def putting(self, key: str, content: bytes) -> None:
        """An object is put without a condition."""
        self.check("outcomes_are_put_conditionally", not key.endswith("/result.json"), lambda: f"{key} was put")
        blamed = key.removeprefix(".boots/").removesuffix(".json") if b"crashed" in content else None
        self.check("a_drain_is_no_crash", blamed not in self.drained, lambda: f"{blamed} drained and is called crashed")

    def preparing(self, boot: str, core: Core, prompt: str, key: JobKey, beside: list[tuple[str, JobKey]]) -> None:
        """A job is handed to the engine. `beside` are the prompts and records of the jobs that are there."""
        journal = self.journals.get((boot, key.partition_key), {})
        self.check(
            "journal_before_the_device", key.offset in journal, lambda: f"{key} is prepared and in no committed journal"
        )
        identity = _identity(prompt)
        twins = [other for there, other in beside if _identity(there) == identity]
        self.check("one_render_per_identity", not twins, lambda: f"{key} is rendered beside {twins}")
        for one in (key, *(other for _, other in beside)):
            job = core.flow.job(one)
            suspect = job is not None and job.suspicion is not None
            self.check(
                "suspects_run_alone", not (suspect and beside), lambda: f"{key} and {[other for _, other in beside]}"
            )
        job = core.flow.job(key)
        if job is not None and job.suspicion is not None and key.offset in journal:
            self.check("suspects_run_alone", journal[key.offset].alone, lambda: f"{key}: the journal does not say so")

    # --- The core ------------------------------------------------------------------------------------------

    def core(self, core: Core, payloads: Payloads, limits: Limits, rows_max: int, poll_rows_max: int) -> None:
        """After any event of a core."""
        flow = core.flow
        held = {
            "rows on the device": (flow.batcher.rows_on_device, limits.batch_rows_max + limits.ahead_rows_max),
            "rows ahead": (flow.rows_ahead, limits.prepare_ahead_rows_max + rows_max - 1),
            "rows begun": (flow.rows_begun, limits.begin_ahead_rows_max + rows_max - 1),
            "rows waiting": (flow.room.rows_total, limits.waiting_rows_max + poll_rows_max * len(core.partitions)),
            "unsettled bytes": (flow.unsettled_bytes, limits.unsettled_bytes_max + 400 * (limits.batch_rows_max + 8)),
        }
        for what, (amount, most) in held.items():
            if not 0 <= amount <= most:
                self.check("bounds_hold", False, lambda what=what, amount=amount: f"{what}: {amount}")  # type: ignore[misc]
        for partition in core.partitions.values():
            if partition.ledger is None:
                continue
            for job in partition.jobs.values():
                above = job.key.offset - partition.ledger.base
                if job.batch_key is not None and above > limits.offset_window:
                    self.check("bounds_hold", False, lambda above=above: f"started {above} offsets above the base")  # type: ignore[misc]

    # --- The end -------------------------------------------------------------------------------------------

    def unfinished(self, partitions: Mapping[PartitionKey, Partition]) -> list[str]:
        """What has not ended yet."""
        left = []
        for key, one in partitions.items():
            for offset, sent in enumerate(one.log):
                if sent is not None and not self._is_published(key, offset):
                    left.append(f"{key.partition}:{offset} ({sent.kind.value} {sent.request_id})")
            if one.committed is None or one.committed[0] < len(one.log):
                left.append(f"{key.partition}: committed {one.committed} of {len(one.log)}")
        return left

    def at_the_end(self, partitions: Mapping[PartitionKey, Partition]) -> None:
        """Everything is quiet: exactly one outcome each."""
        for key, one in partitions.items():
            for offset, sent in enumerate(one.log):
                if sent is None:
                    continue
                endings, letters = self.endings[key][offset], self.letters[key][offset]
                owed = sent.request_id is None or (CRASHED in endings and offset not in self.replays[key])
                self.check(
                    "one_outcome_per_record",
                    bool(endings) == (sent.request_id is not None) and bool(letters) == owed and len(set(endings)) <= 1,
                    lambda: f"{key} {offset}: {endings}, {letters} dead letters",  # noqa: B023 - called at once
                )


def _identity(prompt: str) -> str:
    return prompt.partition(" ")[2].rpartition(".")[0]


def job_key(job_id: str) -> JobKey:
    """The record of an engine's job, from the name that the driver gave it."""
    partition, _, rest = job_id.partition(":")
    return JobKey(TOPIC, int(partition), int(rest.partition("#")[0]))
