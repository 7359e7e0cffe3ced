"""A stage of training with checkpoints on disk, which can be killed at any time.

A stage's progress is the processor time that it has trained for, divided by the number of threads. On an idle machine
those are minutes on the clock; beside other programs, or while stopped, a stage takes longer and learns as much. A slow
machine goes through the same learning rates as a fast one, and a stage that is later given more minutes continues from
its checkpoint.
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

from darkroom.tools.tiny.training.muon import Muon

_WARM_UP_STEPS: Final = 50
_EMA_DECAY: Final = 0.999


@dataclass(slots=True)
class TrainingStage:
    """Networks in training, the moving average of their weights, and their optimizers."""

    file: Path
    networks: torch.nn.Module
    seconds_total: float
    rate: float
    """AdamW's highest learning rate; the rate rises over the first steps and falls to zero along half a cosine."""
    muon_rate: float | None = None
    """Muon's highest learning rate. If it is None, AdamW trains the matrices as well."""
    average: torch.nn.Module = field(init=False)
    optimizers: list[torch.optim.Optimizer] = field(init=False)
    steps: int = 0
    seconds: float = 0.0
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    """Further tensors that belong to the checkpoint."""
    _saved_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.average = deepcopy(self.networks).eval().requires_grad_(False)
        matrices = [] if self.muon_rate is None else [p for p in self.networks.parameters() if p.ndim > 1]
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in self.networks.parameters() if id(parameter) not in chosen]
        # Weights change fast and for a short time, so the second moment decays faster than by default.
        self.optimizers = [torch.optim.AdamW(others, self.rate, betas=(0.9, 0.99), weight_decay=1e-4)]
        if self.muon_rate is not None:
            self.optimizers.append(Muon(matrices, self.muon_rate))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["highest_rate"] = group["lr"]
        if self.file.is_file():
            self._load()

    @property
    def is_done(self) -> bool:
        """True once all of the stage's time is spent."""
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
        """Take steps until the time is spent, or `steps_max` steps, and save.

        `loss_of` draws a batch and returns its loss.
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
        """Write the checkpoint; the previous one stays until the new one is complete."""
        state = {
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
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
        for optimizer, known in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
        self.steps, self.seconds, self.extra = state["steps"], state["seconds"], state["extra"]

    def _step(self, loss_of: Callable[[], torch.Tensor]) -> float:
        progress = min(1.0, self.seconds / self.seconds_total)
        share = min(1.0, (self.steps + 1) / _WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * progress))
        loss = loss_of()
        self.networks.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest_rate"] * share
            optimizer.step()
        self.steps += 1
        self._follow()
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self) -> None:
        # The first steps' weights are not worth averaging.
        decay = min(_EMA_DECAY, (1 + self.steps) / (10 + self.steps))
        ours: list[torch.Tensor] = list(self.average.parameters())
        theirs: list[torch.Tensor] = list(self.networks.parameters())
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
