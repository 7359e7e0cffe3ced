"""When a container has started, is ready, or must be killed: what probes say over time. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Name = Literal["startup", "readiness", "liveness"]
ORDER: Final[tuple[Name, ...]] = ("startup", "readiness", "liveness")


@dataclass(slots=True)
class Probe:
    """One probe's schedule and count. Answers that agree in a row, as many as the threshold, change the verdict."""

    period_s: float
    failures: int
    successes: int
    due_at: float
    in_a_row: int = 0
    last: bool | None = None

    def told(self, good: bool, now: float) -> bool | None:
        """Take an answer. True or False where a threshold is reached, else None."""
        self.due_at = now + self.period_s
        self.in_a_row = self.in_a_row + 1 if good == self.last else 1
        self.last = good
        return good if self.in_a_row >= (self.successes if good else self.failures) else None


@dataclass(slots=True)
class Probes:
    """All probes of one container, from its start on. Readiness and liveness wait for the startup probe."""

    all: dict[Name, Probe]
    started: bool
    ready: bool
    must_die: bool = False
    _order: tuple[Name, ...] = field(default=ORDER, repr=False)

    @classmethod
    def of(cls, container: Mapping[str, Any], now: float) -> Probes:
        """As the container's spec says, with Kubernetes' defaults."""
        found: dict[Name, Probe] = {}
        for name in ORDER:
            spec = container.get(f"{name}Probe")
            if spec is not None:
                found[name] = Probe(
                    spec.get("periodSeconds", 10),
                    spec.get("failureThreshold", 3),
                    spec.get("successThreshold", 1),
                    now + spec.get("initialDelaySeconds", 0),
                )
        return cls(found, started="startup" not in found, ready=not {"startup", "readiness"} & found.keys())

    def due(self, now: float) -> list[Name]:
        """The probes to ask now."""
        names = ("startup",) if not self.started else ("readiness", "liveness")
        return [name for name in self._order if name in names and name in self.all and self.all[name].due_at <= now]

    def told(self, name: Name, good: bool, now: float) -> None:
        """Take an answer."""
        verdict = self.all[name].told(good, now)
        if verdict is None:
            return
        if name == "readiness":
            self.ready = verdict
        elif not verdict:
            self.must_die = True
        elif name == "startup":
            self.started = True
            self.ready = "readiness" not in self.all
            for other in self.all.values():
                other.due_at = min(other.due_at, now)
