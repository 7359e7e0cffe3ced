"""Brings weights to the device for their lane's turn, and takes them away after it.

Our own in place of accelerate's hooks, which move a part whenever its forward is called and know nothing of lanes.
Weights are only ever read, so the host keeps its copy all the time: taking them away is forgetting the device's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from darkroom.inference.types import Lane


class Mover(Protocol):
    """Carries one network's weights."""

    def bring(self, network: nn.Module) -> None:
        """To the device. Out of memory leaves it where it was."""

    def take_away(self, network: nn.Module) -> None:
        """Back to the host."""


class WeightMover(Mover):
    """Between the host's memory and one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_host: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def bring(self, network: nn.Module) -> None:
        """Copy every weight to the device, from pinned memory where that is a GPU."""
        # Weights are no tensors of inference mode, in which lanes run: those cannot take another's place.
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
        """Let go of the device's copy: the host's is as good."""
        for weight, host in self._on_host[network]:
            weight.data = host
        if self._device.type == "cuda":
            # In blocks of a UNet's sizes the memory is of no use to the decoder.
            torch.cuda.empty_cache()

    def _copied(self, host: torch.Tensor) -> torch.Tensor:
        return host.to(self._device, non_blocking=True)

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


class Residence:
    """Which lane's networks are on the device: one's at a time, from its first call until another lane's.

    Not locked: the engine lets one lane in at a time (`Series.ALL`).
    """

    def __init__(self, networks: Mapping[Lane, Sequence[nn.Module]], mover: Mover) -> None:
        """`networks` are on the host; a lane that is not named has none to move."""
        self._networks = networks
        self._mover = mover
        self._on_device: list[nn.Module] = []

    def enter(self, lane: Lane) -> None:
        """Have the lane's networks on the device, and no other's."""
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
