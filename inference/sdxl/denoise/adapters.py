"""Applies LoRAs to the slots of a batch: rows with different sets of them, weights and none share one forward.

The network's weights are never touched. While a batch with adapters runs, each layer that one of them changes has a
forward hook, which adds weight * scale * change(x) to the output of the slots that asked for it and leaves the other
slots' bytes unchanged. Without adapters no hook is registered and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from darkroom.inference.sdxl.loading.lora_file import Lora
from darkroom.inference.sdxl.loading.lora_layers import LAYERS, DoraLayer, LayerChange


@dataclass(frozen=True, slots=True, eq=False)
class AppliedAdapter:
    """A LoRA as one request wants it applied."""

    name: str
    digest: str
    lora: Lora
    weight: float
    """In the UNet."""
    text_weight: float
    """In the text encoders."""


@dataclass(frozen=True, slots=True)
class Share:
    """The slots of a batch to which one LoRA is applied."""

    lora: Lora
    slots: torch.Tensor
    """(n,) the slots' indices."""
    weights: torch.Tensor
    """(n,) fp32: the weight of each slot."""
    is_all: bool
    """True if these are all slots of the batch, in order."""


_Hook = Callable[[torch.nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]


class AdapterBank:
    """The layers of one network, to which adapters can be applied. Belongs to the lane that runs the network."""

    def __init__(self, name: str, network: torch.nn.Module) -> None:
        """Make the bank of `network`, called `name` in LoRA files: unet, text_encoder or text_encoder_2."""
        self._name = name
        self._modules = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}

    @contextmanager
    def applied(self, shares: Sequence[Share]) -> Iterator[None]:
        """Apply the shares to forwards of their batch inside the block. Not re-entrant.

        A compiled block ignores hooks that were registered after it was compiled, so with shares the network must run
        eagerly.
        """
        changes = [(share, layers) for share in shares if (layers := share.lora.layers.get(self._name))]
        with ExitStack() as hooks:
            for layer in {layer: None for _, layers in changes for layer in layers}:
                hook = _adding([(share, layers[layer]) for share, layers in changes if layer in layers])
                hooks.callback(self._modules[layer].register_forward_hook(hook).remove)
            yield


def shares_of(
    slots: Sequence[Sequence[AppliedAdapter]], device: torch.device, *, of_text: bool = False
) -> tuple[Share, ...]:
    """Group the slots of a batch by LoRA, with any weights: each layer then needs one pair of products per LoRA.

    A slot has any number of LoRAs, each once. `of_text`: the batch is of a text encoder.
    """
    places: dict[int, list[tuple[int, AppliedAdapter]]] = {}
    for slot, adapters in enumerate(slots):
        for adapter in adapters:
            places.setdefault(id(adapter.lora), []).append((slot, adapter))
    shares = []
    # Sums in fp16 depend on their order, and a slot's must not depend on its company.
    for used in sorted(places.values(), key=lambda used: used[0][1].name):
        weights = [adapter.text_weight if of_text else adapter.weight for _, adapter in used]
        shares.append(
            Share(
                lora=used[0][1].lora,
                slots=torch.tensor([slot for slot, _ in used]).to(device, non_blocking=True),
                weights=torch.tensor(weights, dtype=torch.float32).to(device, non_blocking=True),
                is_all=len(used) == len(slots),
            )
        )
    return tuple(shares)


def _adding(changing: Sequence[tuple[Share, LayerChange]]) -> _Hook:
    # A DoRA needs the layer's own output, which must then outlive the first addition to it.
    keeps_output = len(changing) > 1 and any(isinstance(layer, DoraLayer) for _, layer in changing)

    def add(module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        x, y = inputs[0], output
        for share, layer in changing:
            own = (x, y) if share.is_all else (x[share.slots], y[share.slots])
            change = layer.change(module, *own)
            factors = (share.weights * layer.scale).view(-1, *(1 for _ in change.shape[1:]))
            # In fp32 and rounded once, as when multiplying by a number.
            change = (change * factors).to(output.dtype)
            if share.is_all:
                output = output + change
            elif keeps_output:
                output = output.index_add(0, share.slots, change)
            else:
                output = output.index_add_(0, share.slots, change)
        return output

    return add
