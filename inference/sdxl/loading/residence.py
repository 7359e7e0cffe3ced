"""Moves weights to the device for their lane's turn, and away after it.

accelerate's hooks are not used, because they move a part whenever its forward is called and know nothing of lanes.
Weights are only ever read, so the host keeps its copy: moving weights away only discards the device's copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from darkroom.inference.types import Lane


class Mover(Protocol):
    """Moves one network's weights."""

    def bring(self, network: nn.Module) -> None:
        """Move the weights to the device. Running out of memory leaves them where they were."""

    def take_away(self, network: nn.Module) -> None:
        """Move the weights back to the host."""


class WeightMover(Mover):
    """Moves weights between the host's memory and one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_host: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def bring(self, network: nn.Module) -> None:
        """Copy every weight to the device, from pinned memory for a GPU."""
        # Lanes run in inference mode, whose tensors cannot replace ordinary weights, so it is left for the copies.
        with torch.inference_mode(False):
            if network not in self._on_host:
                self._on_host[network] = [(weight, self._pinned(weight.data)) for weight in _weights(network)]
            held = self._on_host[network]
            brought = [self._copied(host) for _, host in held]
        for (weight, _), copy in zip(held, brought, strict=True):
            weight.data = copy
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def take_away(self, network: nn.Module) -> None:
        """Discard the device's copy, and use the host's again."""
        for weight, host in self._on_host[network]:
            weight.data = host
        if self._device.type == "cuda":
            # The allocator's cached blocks have the UNet's sizes and would be of no use to the decoder.
            torch.cuda.empty_cache()

    def _copied(self, host: torch.Tensor) -> torch.Tensor:
        return host.to(self._device, non_blocking=True)

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


class Residence:
    """Keeps one lane's networks on the device, from the lane's first call until another lane calls.

    Not locked, because the engine lets one lane in at a time (`Series.ALL`).
    """

    def __init__(self, networks: Mapping[Lane, Sequence[nn.Module]], mover: Mover) -> None:
        """Start with all `networks` on the host. A lane that is not a key has none to move."""
        self._networks = networks
        self._mover = mover
        self._on_device: list[nn.Module] = []

    def enter(self, lane: Lane) -> None:
        """Bring the lane's networks to the device, and move all others away."""
        wanted = list(self._networks.get(lane, ()))
        for network in [each for each in self._on_device if each not in wanted]:
            self._mover.take_away(network)
            self._on_device.remove(network)
        for network in wanted:
            if network not in self._on_device:
                self._mover.bring(network)
                self._on_device.append(network)


def _weights(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
