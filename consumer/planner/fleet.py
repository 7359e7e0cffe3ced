"""A fleet over time: pods that start and drain, a group that rebalances, an autoscaler that looks at the lag.

A pod is paid for from the moment it is asked for. It loads its model for `start_s`, joins the group, and every change
of the membership pauses all deliveries for `rebalance_s` (devices go on with what they hold). A pod that is to go gets
SIGTERM: the core drains, and the rest of its work is somebody else's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.assignor import shares
from darkroom.consumer.planner.autoscaler import Autoscaler, Autoscaling
from darkroom.consumer.planner.load import LATENT_FACTOR
from darkroom.consumer.planner.member import Member
from darkroom.consumer.planner.topic import Arrival, Delays, Topic
from darkroom.consumer.planner.virtual import DeviceListener, VirtualClock, VirtualDevice
from darkroom.inference.planning.profile import DeviceProfile
from darkroom.inference.planning.request_costs import RequestCosts

SAMPLE_S = 5.0
"""Between two points of a run's history, at the least."""


GIVE_UP_S = 48 * 3600.0
"""After the last arrival: who is not answered by then never is, or for no plan that anybody would follow."""


class UnansweredError(RuntimeError):
    """Requests were left that nobody answers: a bug, or a fleet that cannot carry the load."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything about a fleet but its load."""

    profile: DeviceProfile
    partitions: int
    replicas: int
    """At the start, loaded and in the group."""
    autoscaling: Autoscaling | None = None
    """None: always as many."""
    limits: Limits = field(default_factory=Limits)
    delays: Delays = field(default_factory=Delays)
    start_s: float = 90.0
    rebalance_s: float = 3.0
    open_s: float = 0.3


@dataclass(slots=True)
class Pod:
    """One worker's stay. Times in seconds of the run."""

    name: str
    asked_at: float
    joined_at: float = math.inf
    ending: bool = False
    ended_at: float = math.inf
    member: Member | None = None
    device: VirtualDevice | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a run's history."""

    at_s: float
    lag: int
    replicas: int
    """Asked for and not ending."""
    serving: int
    """Of these, those in the group."""


@dataclass(slots=True)
class FleetRun:
    """Result of simulating a load."""

    latencies_s: list[float]
    """By arrival: from its time to its published completion."""
    arrived_at_s: list[float]
    answers: list[int]
    """By arrival: 1, or something is wrong."""
    replica_s: float
    """Seconds of pods, loading and draining included, as far as they are paid for."""
    serving_s: float
    """Seconds in the group, to the run's end."""
    busy_s: float
    """Of these, seconds in steps."""
    ended_at_s: float
    last_answer_s: float
    history: list[Moment]
    steps_by_rows: Counter[int]
    rebalances: int


class Fleet:
    """One run. `run` once."""

    def __init__(
        self, spec: Spec, arrivals: Sequence[Arrival], partition_of: Sequence[int], *, until_s: float = 0.0
    ) -> None:
        """`until_s`: go on at least so long, and pay until then: what is left belongs to the next hour.

        0: until the last answer.
        """
        if spec.autoscaling is not None:
            spec.autoscaling.check(spec.partitions)
        self._spec = spec
        self._until_s = until_s
        self._give_up_at = (arrivals[-1].at_s if arrivals else 0.0) + GIVE_UP_S
        self._clock = VirtualClock()
        costs = RequestCosts(spec.profile, LATENT_FACTOR, rows_max=spec.limits.batch_rows_max)
        self._topic = Topic(arrivals, partition_of, spec.partitions, costs)
        self._arrivals = arrivals
        self._autoscaler = None if spec.autoscaling is None else Autoscaler(spec.autoscaling)
        self._pods: list[Pod] = []
        self._gone: list[Pod] = []
        self._owner: dict[int, Member] = {}
        self._held: dict[str, frozenset[int]] = {}
        self._numbers = count(1)
        self._rebalancing = False
        self._changed_meanwhile = False
        self._history: list[Moment] = []
        self.rebalances = 0

    def run(self) -> FleetRun:
        """To the last answer, and to `until_s`. Raises `UnansweredError` where an arrival is never answered."""
        for _ in range(self._spec.replicas):
            self._start(0.0)
        self._await(0)
        self._note()
        if self._autoscaler is not None:
            self._look()
        elif not self._is_over():
            self._later(SAMPLE_S, self._sample)
        self._clock.run()
        if self._topic.unanswered:
            raise UnansweredError(
                f"{self._topic.unanswered} of {len(self._arrivals)} requests were never answered by "
                f"{len(self._pods)} workers."
            )
        return self._result()

    # --- The load and its end ----------------------------------------------------------------------------

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._clock.later(seconds, call)

    def _is_over(self) -> bool:
        if self._clock.now() > self._give_up_at:
            return True
        return self._topic.unanswered == 0 and self._clock.now() >= self._until_s

    def _await(self, number: int) -> None:
        if number < len(self._arrivals):
            self._later(self._arrivals[number].at_s - self._clock.now(), lambda: self._arrive(number))

    def _arrive(self, number: int) -> None:
        partition = self._topic.append(number)
        self._await(number + 1)
        owner = self._owner.get(partition)
        if owner is not None:
            owner.deliver(partition)

    # --- Pods --------------------------------------------------------------------------------------------

    def _start(self, start_s: float) -> None:
        pod = Pod(f"worker-{next(self._numbers)}", self._clock.now())
        self._pods.append(pod)
        self._later(start_s, lambda: self._join(pod))

    def _join(self, pod: Pod) -> None:
        if pod.ending:
            return
        pod.joined_at = self._clock.now()
        spec = self._spec

        def make_device(listener: DeviceListener) -> VirtualDevice:
            pod.device = VirtualDevice(
                spec.profile,
                self._clock,
                listener,
                rows_max=spec.limits.batch_rows_max,
                prepare_s=spec.delays.prepare_s,
            )
            return pod.device

        pod.member = Member(
            pod.name,
            self._topic,
            self._clock,
            make_device,
            limits=spec.limits,
            boot=f"{next(self._numbers):016x}",
            delays=spec.delays,
            open_s=spec.open_s,
            on_left=lambda _: self._end(pod),
        )
        pod.member.start()
        self._membership_changed()

    def _end(self, pod: Pod) -> None:
        pod.ended_at = self._clock.now()
        self._pods.remove(pod)
        self._gone.append(pod)
        if pod.member is not None:
            self._membership_changed()

    def _staying(self) -> list[Pod]:
        return [pod for pod in self._pods if not pod.ending]

    def _scale(self, replicas: int) -> None:
        staying = self._staying()
        for _ in range(replicas - len(staying)):
            self._start(self._spec.start_s)
        for pod in sorted(staying, key=_goes_first)[: max(0, len(staying) - replicas)]:
            pod.ending = True
            if pod.member is None:
                self._end(pod)
            else:
                pod.member.drain()

    # --- The group ---------------------------------------------------------------------------------------

    def _membership_changed(self) -> None:
        if self._rebalancing:
            self._changed_meanwhile = True
            return
        self._rebalancing = True
        self.rebalances += 1
        for pod in self._pods:
            if pod.member is not None:
                pod.member.revoked()
        # A fleet that is there from the start has had its rebalance.
        self._later(0.0 if self._clock.now() == 0 else self._spec.rebalance_s, self._assign)

    def _assign(self) -> None:
        members = {pod.name: pod.member for pod in self._pods if pod.member is not None}
        self._held = shares(self._held, list(members), self._spec.partitions)
        self._owner = {number: members[name] for name, own in self._held.items() for number in own}
        self._rebalancing = False
        again, self._changed_meanwhile = self._changed_meanwhile, False
        for name, own in self._held.items():
            members[name].assigned(own)
        if again:
            self._membership_changed()

    # --- The autoscaler and the history --------------------------------------------------------------------

    def _look(self) -> None:
        assert self._autoscaler is not None
        replicas = len(self._staying())
        topic = self._topic
        self._scale(self._autoscaler.look(self._clock.now(), topic.lag, replicas, topic.partitions_with_lag))
        self._note()
        if not self._is_over():
            self._later(self._autoscaler.settings.sync_s, self._look)

    def _sample(self) -> None:
        self._note()
        if not self._is_over():
            self._later(SAMPLE_S, self._sample)

    def _note(self) -> None:
        staying = self._staying()
        serving = sum(pod.member is not None for pod in staying)
        self._history.append(Moment(self._clock.now(), self._topic.lag, len(staying), serving))

    def _result(self) -> FleetRun:
        answered = self._topic.answered_at
        last = max(answered, default=0.0)
        ended, paid_until = max(self._until_s, last), self._until_s or last
        pods = [*self._gone, *self._pods]
        devices = [pod.device for pod in pods if pod.device is not None]
        steps: Counter[int] = Counter()
        for device in devices:
            steps.update(device.steps_by_rows)
        return FleetRun(
            latencies_s=[at - arrival.at_s for at, arrival in zip(answered, self._arrivals, strict=True)],
            arrived_at_s=[arrival.at_s for arrival in self._arrivals],
            answers=list(self._topic.answers),
            replica_s=sum(max(0.0, min(pod.ended_at, paid_until) - pod.asked_at) for pod in pods),
            serving_s=sum(max(0.0, min(pod.ended_at, ended) - pod.joined_at) for pod in pods),
            busy_s=sum(device.busy_s for device in devices),
            ended_at_s=ended,
            last_answer_s=last,
            history=self._history,
            steps_by_rows=steps,
            rebalances=self.rebalances,
        )


def _goes_first(pod: Pod) -> tuple[bool, int, float]:
    """Which pod a smaller fleet gives up: one that is not ready; an idle one, which lowered its own deletion cost; then
    the one that is ready for the shortest time (Kubernetes' order)."""
    ready = pod.member is not None
    return ready, pod.member.rows_held if pod.member is not None else 0, -pod.joined_at
