"""A stage of training that can be killed at any time: what it has reached, on disk, and how far that is.

How far a stage is, is told by the processor time it has trained for, divided by the threads. On a machine of one's own
those are minutes on the clock; beside other programs, or stopped, a stage takes longer and learns as much. A slow
machine goes through the same learning rates as a fast one, and a stage that is given more minutes later goes on from
where it was.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

_WARM_UP_STEPS: Final = 150
_EMA_DECAY: Final = 0.999


@dataclass(slots=True)
class Stage:
    """Networks in training, the running average of their weights, and their optimizer."""

    file: Path
    networks: torch.nn.Module
    seconds_total: float
    rate: float
    """The highest learning rate; it rises over the first steps and falls to zero as half a cosine."""
    average: torch.nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    steps: int = 0
    seconds: float = 0.0
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    """Whatever else the stage must not lose."""
    _saved_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.average = deepcopy(self.networks).eval().requires_grad_(False)
        # Weights move fast and for a short time, so the second moment forgets faster than by default.
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), self.rate, betas=(0.9, 0.99), weight_decay=1e-4)
        if self.file.is_file():
            self._load()

    @property
    def is_done(self) -> bool:
        """Whether all of the stage's time is spent."""
        return self.seconds >= self.seconds_total

    def train(
        self,
        loss_of: Callable[[], torch.Tensor],
        *,
        report: Callable[[str], None],
        save_every_s: float,
        steps_max: int | None = None,
        when_saved: Callable[[], None] | None = None,
    ) -> None:
        """Step until the time is spent, or for `steps_max` steps, and save.

        `loss_of` draws a batch and gives its loss.
        """
        self._saved_at_s = self.seconds
        recent, reported_at = 0.0, time.monotonic()
        until = math.inf if steps_max is None else self.steps + steps_max
        while not self.is_done and self.steps < until:
            began = time.process_time()
            loss = self._step(loss_of)
            recent = loss if not recent else 0.98 * recent + 0.02 * loss
            self.seconds += (time.process_time() - began) / torch.get_num_threads()
            if time.monotonic() - reported_at > 20:
                spent = f"{self.seconds / 60:.1f} of {self.seconds_total / 60:.1f} min"
                report(f"{spent}, step {self.steps}, loss {recent:.4f}")
                reported_at = time.monotonic()
            if self.seconds - self._saved_at_s > save_every_s:
                self.save()
                if when_saved is not None:
                    when_saved()
        self.save()
        if when_saved is not None:
            when_saved()

    def save(self) -> None:
        """Write the checkpoint; the earlier one stays until the new one is whole."""
        state = {
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "extra": self.extra,
        }
        half = self.file.with_suffix(".part")
        torch.save(state, half)
        os.replace(half, self.file)
        self._saved_at_s = self.seconds

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self.file, weights_only=True)
        self.networks.load_state_dict(state["networks"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds, self.extra = state["steps"], state["seconds"], state["extra"]

    def _step(self, loss_of: Callable[[], torch.Tensor]) -> float:
        progress = min(1.0, self.seconds / self.seconds_total)
        rate = self.rate * min(1.0, (self.steps + 1) / _WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        self._follow()
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self) -> None:
        # Of the first steps nothing is worth remembering.
        decay = min(_EMA_DECAY, (1 + self.steps) / (10 + self.steps))
        ours: list[torch.Tensor] = list(self.average.parameters())
        theirs: list[torch.Tensor] = list(self.networks.parameters())
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
