"""A seeded world around several cores: a broker that rebalances and fences, a store and a device that fail.

Every effect of every core is a thing under way; each action of the world completes one of them, well or badly, or
lets something happen (a delivery, a step, a rebalance, a freeze, a crash). After each action the promises are
checked; once the faults stop, every record must come to exactly one outcome.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import count

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import JobFacts, Verdict, VerdictKind
from darkroom.consumer.core.journal import Boot, Fate
from darkroom.consumer.core.offset_map import decode_commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey
from tests.consumer.core.cast import CAPS, LIMITS, ROWS_MAX, TOPIC, Partition, Worker
from tests.consumer.core.promises import check

_UNDONE = (do.LookUp, do.FetchPictures, do.Prepare)
"""What leaving a job undoes."""


class World:
    """Everything, driven by one random generator: the same seed is the same history."""

    def __init__(self, seed: int, *, workers: int = 3, partitions: int = 3, records: int = 40) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.now = 0.0
        self.faults = True
        self.keys = [PartitionKey(TOPIC, number) for number in range(partitions)]
        self.partitions = {key: Partition(key) for key in self.keys}
        self.to_send = records
        self.sent = 0
        self.outcomes: dict[tuple[str, str], JobKey] = {}
        self.renders: Counter[JobKey] = Counter()
        self.poison: set[JobKey] = set()
        self.crashed: set[Boot] = set()
        self.blamed: set[JobKey] = set()
        self._boots = count(1)
        self.workers = [self._new_worker() for _ in range(workers)]
        self._rebalance()

    def run(self, steps: int = 1500, heal_steps: int = 60_000) -> None:
        """A stretch with faults, then one without in which everything has to come to its end."""
        for _ in range(steps):
            self._act()
        self.faults = False
        for worker in self.workers:
            worker.frozen = False
        self._rebalance()
        for _ in range(heal_steps):
            if self.done():
                return
            self._act()
        raise AssertionError(f"seed {self.seed}: not done after healing: {self._unfinished()}")

    def done(self) -> bool:
        """Every record has its outcome and every committed offset is at the end."""
        return self.to_send == 0 and all(
            one.committed is not None and one.committed[0] == len(one.log) for one in self.partitions.values()
        )

    # --- What may happen -----------------------------------------------------------------------------------

    def _act(self) -> None:
        self.now += self.rng.choice((0.0, 0.001, 0.01, 0.3))
        worker = self.rng.choice(self.workers)
        happenings = [self._deliver] * 6 + [self._complete] * 10 + [self._step] * 6 + [self._tick] * 2
        if self.to_send:
            happenings += [self._send]
        if self.faults:
            happenings += [self._disturb]
        happening = self.rng.choice(happenings)
        if not worker.frozen or happening in (self._send, self._disturb):
            happening(worker)
        check(self)

    def _send(self, _worker: Worker) -> None:
        key = self.rng.choice(self.keys)
        log = self.partitions[key].log
        self.to_send -= 1
        self.sent += 1
        again = self.rng.random() < 0.15
        identity = ("t", f"r{self.rng.randrange(max(1, self.sent)) if again else self.sent}")
        kind = self.rng.random()
        log.append(
            JobFacts(
                key=JobKey(TOPIC, key.partition, len(log)),
                identity=None if kind < 0.05 else identity,
                rows=self.rng.choice((1, 1, 1, 2, ROWS_MAX)),
                size_bytes=100,
                priority=self.rng.randrange(10),
                waiting_since=self.now,
                deadline=self.now + self.rng.random() if kind > 0.9 else None,
                fetches_pictures=self.rng.random() < 0.2,
                device_us=500_000 * (1 + len(log) % 4),
                refusal=Verdict(VerdictKind.FAILED, "invalid_request", "no") if 0.05 <= kind < 0.1 else None,
            )
        )
        facts = log[-1]
        if self.rng.random() < 0.03 and facts and facts.identity == identity and not again:
            self.poison.add(facts.key)
        if self.rng.random() < 0.2:
            log.append(None)

    def _deliver(self, worker: Worker) -> None:
        ready = sorted(worker.delivering & worker.assigned)
        if not ready:
            return
        key = self.rng.choice(ready)
        epoch = worker.core.partitions[key].epoch
        log = self.partitions[key].log
        position = worker.positions[key]
        for facts in log[position : position + self.rng.randrange(4)]:
            position += 1
            if facts is not None:
                self._tell(worker, on.RecordArrived(facts, epoch))
        worker.positions[key] = position
        self._tell(worker, on.PositionAdvanced(key, epoch, position))

    def _complete(self, worker: Worker) -> None:
        if worker.under_way:
            effect = worker.under_way.pop(self.rng.randrange(len(worker.under_way)))
            getattr(self, f"_complete_{type(effect).__name__.lower()}")(worker, effect)

    def _step(self, worker: Worker) -> None:
        if worker.finishing and self.rng.random() < 0.5:
            job = self.rng.choice(sorted(worker.finishing))
            facts = worker.core.flow.job(job)
            if facts is not None and worker.finishing[job] == facts.facts.rows:
                del worker.finishing[job]
                self.renders[job] += 1
                self._tell(worker, on.Rendered(job, 1000))
            return
        rows = self._stepping(worker)
        if not rows:
            return
        if any(row.job in self.poison for row in rows):
            self._crash(worker)
            return
        if self.faults and self.rng.random() < 0.03:
            for row in rows:
                del worker.device[row]
            party = self.rng.choice((on.FaultParty.MEMORY, on.FaultParty.UNKNOWN))
            self._tell(worker, on.StepFaulted(rows, party, "render_failed", "a step failed"))
            return
        retired = []
        for row in rows:
            worker.device[row] -= 1
            if worker.device[row] == 0:
                retired.append(row)
                del worker.device[row]
                worker.finishing[row.job] += 1
        if retired:
            self._tell(worker, on.StepBoundary(tuple(retired)))

    def _stepping(self, worker: Worker) -> tuple[RowKey, ...]:
        """The rows that take the next step: of what was handed over, as many as the engine was told."""
        first = next(iter(worker.device), None)
        job = None if first is None else worker.core.flow.job(first.job)
        if job is None or job.batch_key is None:
            return ()
        cap = worker.caps.get(job.batch_key, CAPS[str(job.batch_key)][0])
        return tuple(list(worker.device)[:cap])

    def _tick(self, worker: Worker) -> None:
        wake_at = worker.core.wake_at()
        if wake_at is not None and (wake_at <= self.now or not self.faults):
            self.now = max(self.now, wake_at)
            self._tell(worker, on.Tick())

    def _disturb(self, worker: Worker) -> None:
        what = self.rng.random()
        if what < 0.1 and not self._calls_somebody_alone(worker.boot):
            self._crash(worker)
        elif what < 0.25:
            worker.frozen = not worker.frozen
            self._rebalance()
        elif what < 0.4:
            self._rebalance()
        elif what < 0.5 and worker.device:
            self._tell(worker, on.CancellationArrived(("t", f"r{self.rng.randrange(self.sent + 1)}")))

    # --- How what is under way ends ------------------------------------------------------------------------

    def _complete_openpartition(self, worker: Worker, effect: do.OpenPartition) -> None:
        current = worker.core.partitions.get(effect.partition)
        if current is None or current.epoch != effect.epoch:
            return
        if effect.prove_ownership and effect.partition not in worker.assigned:
            worker.under_way.append(effect)  # still asking the group
            return
        if self._goes_wrong():
            self._tell(worker, on.OpenFailed(effect.partition, effect.epoch))
            return
        partition = self.partitions[effect.partition]
        partition.fence += 1
        worker.writers[effect.partition] = partition.fence
        base, metadata = partition.committed or (0, "")
        fresh = partition.committed is None
        commit = decode_commit(effect.partition, base, metadata)
        fates = self._fates(commit.journal.boots)
        self._tell(worker, on.PartitionOpened(effect.partition, effect.epoch, commit, fresh=fresh, fates=fates))

    def _complete_lookup(self, worker: Worker, effect: do.LookUp) -> None:
        facts = self.facts(effect.job)
        assert facts is not None
        assert facts.identity is not None
        if self._goes_wrong():
            self._tell(worker, on.StoreFailed(effect))
        elif self._goes_wrong():
            self._tell(worker, on.JobFaulted(effect.job, on.FaultParty.UNKNOWN, "render_failed", "no"))
        elif facts.identity in self.outcomes:
            self._tell(worker, on.OutcomeFound(effect.job))
        else:
            self._tell(worker, on.OutcomeAbsent(effect.job))

    def _complete_fetchpictures(self, worker: Worker, effect: do.FetchPictures) -> None:
        if self._goes_wrong():
            self._tell(worker, on.StoreFailed(effect))
        elif self._goes_wrong():
            self._tell(worker, on.JobFaulted(effect.job, on.FaultParty.REQUEST, "pose_not_found", "no"))
        else:
            self._tell(worker, on.PicturesFetched(effect.job))

    def _complete_prepare(self, worker: Worker, effect: do.Prepare) -> None:
        if effect.job in self.poison and self.rng.random() < 0.5:
            self._crash(worker)
            return
        chance = self.rng.random() if self.faults else 1.0
        if chance < 0.1:
            party = self.rng.choice((on.FaultParty.REQUEST, on.FaultParty.UNKNOWN))
            self._tell(worker, on.JobFaulted(effect.job, party, "pose_unreadable", "no"))
        else:
            batch_key = self.rng.choice(("small", "small", "large"))
            self._tell(worker, on.CapKnown(batch_key, *CAPS[batch_key]))
            self._tell(worker, on.Prepared(effect.job, batch_key))

    def _complete_admit(self, worker: Worker, effect: do.Admit) -> None:
        for row in effect.rows:
            job = worker.core.flow.job(row.job)
            if job is not None and row.image in job.rows_on_device:
                worker.device[row] = self.rng.randrange(1, 5)

    def _complete_settle(self, worker: Worker, effect: do.Settle) -> None:
        facts = self.facts(effect.job)
        assert facts is not None
        assert facts.identity is not None
        if self._goes_wrong():
            if self.rng.random() < 0.5:
                self.outcomes.setdefault(facts.identity, effect.job)
            self._tell(worker, on.StoreFailed(effect))
            return
        self.outcomes.setdefault(facts.identity, effect.job)
        if effect.verdict.crashes:
            self.blamed.add(effect.job)
        self._tell(worker, on.Settled(effect.job))

    def _complete_publish(self, worker: Worker, effect: do.Publish) -> None:
        partition = self.partitions[effect.partition]
        if worker.writers.get(effect.partition) != partition.fence:
            self._tell(worker, on.PublishFailed(effect.partition, effect.epoch, fenced=True))
            return
        lost = self._goes_wrong()
        if not lost or self.rng.random() < 0.5:
            for job in effect.jobs:
                facts = self.facts(job)
                assert facts is not None
                decided = facts.identity is None or facts.identity in self.outcomes
                assert decided, f"seed {self.seed}: {job} published before its outcome was decided"
                partition.published[job.offset] += 1
            partition.committed = (effect.offset, effect.metadata)
        if lost:
            worker.writers.pop(effect.partition)
            self._tell(worker, on.PublishFailed(effect.partition, effect.epoch, fenced=False))
        else:
            self._tell(worker, on.Published(effect.partition, effect.epoch))

    def _complete_stop(self, _worker: Worker, _effect: do.Stop) -> None:
        raise AssertionError("nobody asked for a drain")

    # --- Machinery -----------------------------------------------------------------------------------------

    def _tell(self, worker: Worker, event: on.Event) -> None:
        for effect in worker.core.handle(event, self.now):
            match effect:
                case do.Pause(key):
                    worker.delivering.discard(key)
                case do.Resume(key, seek_to):
                    worker.delivering.add(key)
                    if seek_to is not None:
                        worker.positions[key] = seek_to
                case do.ClosePartition(key):
                    worker.writers.pop(key, None)
                    worker.delivering.discard(key)
                    worker.under_way = [
                        one for one in worker.under_way if not (isinstance(one, do.Publish) and one.partition == key)
                    ]
                case do.OpenPartition(key):
                    worker.under_way = [
                        one
                        for one in worker.under_way
                        if not (isinstance(one, do.Publish | do.OpenPartition) and one.partition == key)
                    ] + [effect]
                    if worker.writers.get(key) == self.partitions[key].fence and self.rng.random() < 0.5:
                        worker.writers.pop(key)
                case do.Leave(job) | do.Forget(job):
                    self._leave(worker, job, forgotten=isinstance(effect, do.Forget))
                case do.SetCap(batch_key, rows_max):
                    worker.caps[batch_key] = rows_max
                case do.Keep():
                    pass
                case _:
                    worker.under_way.append(effect)

    def _leave(self, worker: Worker, job: JobKey, *, forgotten: bool) -> None:
        for row in [row for row in worker.device if row.job == job]:
            del worker.device[row]
        worker.finishing.pop(job, None)
        cancelled = (*_UNDONE, do.Settle) if forgotten else _UNDONE
        worker.under_way = [one for one in worker.under_way if not (isinstance(one, cancelled) and one.job == job)]

    def _rebalance(self) -> None:
        """Eager: everything is revoked from everyone, then given out anew among those that answer."""
        heard = [worker for worker in self.workers if not worker.frozen]
        keys = list(self.keys)
        self.rng.shuffle(keys)
        share = {id(worker): set[PartitionKey]() for worker in heard}
        for index, key in enumerate(keys):
            if heard:
                share[id(heard[index % len(heard)])].add(key)
        for worker in self.workers:
            if worker.frozen:
                worker.assigned = frozenset()  # the group's view; the worker does not know it
                continue
            held = frozenset(worker.core.partitions)
            self._tell(worker, on.PartitionsRevoked(held))
            worker.delivering.clear()
            worker.assigned = frozenset(share[id(worker)])
            self._tell(worker, on.PartitionsAssigned(worker.assigned))

    def _new_worker(self) -> Worker:
        boot = f"{next(self._boots):016x}"
        worker = Worker(Core(LIMITS, boot=boot), boot)
        self._tell(worker, on.Started())
        return worker

    def _crash(self, worker: Worker) -> None:
        """Nothing of it remains but what it committed; its successor finds out that it did not end by itself."""
        self.workers[self.workers.index(worker)] = self._new_worker()
        self.crashed.add(worker.boot)
        self._rebalance()

    def _calls_somebody_alone(self, boot: Boot) -> bool:
        """A crash of such a boot counts against somebody: only poison may cause it here."""
        journals = [decode_commit(one.key, *one.committed).journal for one in self.partitions.values() if one.committed]
        return any(one.boot == boot and any(entry.alone for entry in one.entries.values()) for one in journals)

    def _fates(self, boots: frozenset[Boot]) -> dict[Boot, Fate]:
        alive = {worker.boot for worker in self.workers if not worker.frozen}
        return {
            boot: Fate.CRASHED if boot in self.crashed else Fate.ALIVE if boot in alive else Fate.GONE for boot in boots
        }

    def _goes_wrong(self) -> bool:
        return self.faults and self.rng.random() < 0.12

    def facts(self, job: JobKey) -> JobFacts | None:
        """What stands at a record's place; None for a control record."""
        return self.partitions[job.partition_key].log[job.offset]

    def _unfinished(self) -> str:
        lines = []
        for key, one in self.partitions.items():
            lines.append(f"{key.partition}: committed {one.committed} of {len(one.log)}")
        for number, worker in enumerate(self.workers):
            states = {state.value: rows for state, rows in worker.core.flow.rows_in.items() if rows}
            lines.append(f"worker {number}: {states}, under way {worker.under_way[:5]}, wake {worker.core.wake_at()}")
            lines += [f"  {one.key.partition} {one.is_open=} {one.paused=}" for one in worker.core.partitions.values()]
        return "; ".join(lines)
