"""LoRA and its relatives: the change that an adapter makes to the output of one layer of a network.

Each form computes y' - y for an adapter of weight 1 from the layer's input x, so that one batch can hold any mix of
them. All but DoRA change the output by delta(x), where delta is the change of the layer's weight; the deltas of LoHa
and LoKr are rebuilt from their factors at each call, which costs little beside the layer itself and no memory. With the
weight w a layer is W + w (W' - W) in every form, W' being the trained weight.

Formulas: Hu et al. 2021 (LoRA), Hyeon-Woo et al. 2022 (FedPara, LoHa), Yeh et al. 2024 (LyCORIS: LoKr, Tucker forms,
norms), Liu et al. 2024 (DoRA).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

import torch
from torch.nn import functional
from typing_extensions import override

NORMS: Final = (torch.nn.GroupNorm, torch.nn.LayerNorm)
LAYERS: Final = (torch.nn.Linear, torch.nn.Conv2d, *NORMS)
"""The kinds of layer that an adapter can change."""

Factors = tuple[torch.Tensor, ...]
"""A matrix or a kernel in parts: (whole,), (a, b) for a @ b, or (core, a, b) of a Tucker decomposition."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerChange(ABC):
    """The change that an adapter of weight 1 makes to one layer."""

    scale: float = 1.0
    """What `change` is multiplied by, besides the weight: alpha / rank."""

    @abstractmethod
    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the change to the output `y` that `module` has for `x`, not yet scaled."""

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors."""
        return [tensor for field in fields(self) for tensor in _tensors_in(getattr(self, field.name))]

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        return replace(self, **{field.name: _moved(getattr(self, field.name), device) for field in fields(self)})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WeightChange(LayerChange):
    """A change that is one of the layer's weight alone."""

    @abstractmethod
    def delta(self) -> torch.Tensor:
        """Return the change to the layer's weight, in its shape, fp32, not yet scaled."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LoraLayer(WeightChange):
    """A LoRA: up(down(x))."""

    down: torch.Tensor
    """(rank, in) of a linear layer, (rank, in, height, width) of a convolution."""
    up: torch.Tensor
    """(out, rank), or (out, rank, 1, 1)."""

    @override
    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # Of a convolution, `down` has the kernel, stride and padding, and `up` is 1 x 1.
        if isinstance(module, torch.nn.Conv2d):
            return functional.conv2d(_applied(module, x, self.down), self.up)
        return functional.linear(functional.linear(x, self.down), self.up)

    @override
    def delta(self) -> torch.Tensor:
        down = self.down.float()
        return (self.up.float().flatten(1) @ down.flatten(1)).reshape(self.up.shape[0], *down.shape[1:])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LohaLayer(WeightChange):
    """A LoHa: the Hadamard product of two matrices of low rank."""

    first: Factors
    second: Factors
    shape: tuple[int, ...]
    """Of the layer's weight."""

    @override
    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return _applied(module, x, self.delta())

    @override
    def delta(self) -> torch.Tensor:
        return (multiplied(self.first) * multiplied(self.second)).reshape(self.shape)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LokrLayer(WeightChange):
    """A LoKr: the Kronecker product of two matrices, or of a matrix and a kernel."""

    first: Factors
    """(out 1, in 1)."""
    second: Factors
    """(out 2, in 2), with a kernel's sides behind."""
    shape: tuple[int, ...]
    """Of the layer's weight."""

    @override
    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return _applied(module, x, self.delta())

    @override
    def delta(self) -> torch.Tensor:
        first, second = multiplied(self.first), multiplied(self.second)
        # Kronecker products need as many dimensions; a flattened kernel stands within the second one's columns.
        first = first.reshape(*first.shape, *(1 for _ in second.shape[2:]))
        # `kron` fails for a second factor that is not contiguous, as Tucker forms are.
        return torch.kron(first, second.contiguous()).reshape(self.shape)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FullLayer(LayerChange):
    """The whole difference of a layer's weight, of its bias, or of both."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    @override
    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if isinstance(module, NORMS):
            return self._normed(module, x)
        found = torch.zeros_like(y) if self.weight is None else _applied(module, x, self.weight)
        if self.bias is None:
            return found
        return found + (self.bias[:, None, None] if isinstance(module, torch.nn.Conv2d) else self.bias)

    def _normed(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        # Without a weight the functions scale by 1, which would not be a change of 0.
        weight = torch.zeros_like(module.weight) if self.weight is None else self.weight
        if isinstance(module, torch.nn.GroupNorm):
            return functional.group_norm(x, module.num_groups, weight, self.bias, module.eps)
        return functional.layer_norm(x, module.normalized_shape, weight, self.bias, module.eps)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DoraLayer(LayerChange):
    """A DoRA: each output of W + D, with D the delta of another form, is scaled to a trained magnitude.

    With r = magnitude / norm(W + D): r (W + D) x - W x = (r - 1) (y - b) + r D x. The norm is of the unchanged layer,
    so it is computed once.
    """

    inner: WeightChange
    ratio: torch.Tensor
    """(out,) fp32: r."""

    @override
    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        behind = (1, 1) if isinstance(module, torch.nn.Conv2d) else ()
        ratio = self.ratio.reshape(-1, *behind)
        linear = y.float() if module.bias is None else y.float() - module.bias.float().reshape(-1, *behind)
        return (ratio - 1) * linear + ratio * self.inner.scale * self.inner.change(module, x, y).float()

    @override
    def tensors(self) -> list[torch.Tensor]:
        return [self.ratio, *self.inner.tensors()]

    @override
    def to(self, device: torch.device) -> Self:
        return replace(self, ratio=self.ratio.to(device), inner=self.inner.to(device))


def multiplied(factors: Factors) -> torch.Tensor:
    """Return the product of the factors in fp32. Those of a Tucker decomposition are core, (rank, out), (rank, in)."""
    whole, *rest = (factor.float() for factor in factors)
    if not rest:
        return whole
    if len(rest) == 1:
        return whole @ rest[0]
    first, second = rest
    return torch.einsum("ijkl,ip,jr->prkl", whole, first, second)


def dora(inner: WeightChange, magnitude: torch.Tensor, weight: torch.Tensor) -> DoraLayer:
    """Return the DoRA of an `inner` change, for the layer's `weight`. `magnitude` has a number for each output."""
    changed = weight.float().cpu() + inner.scale * inner.delta()
    # As LyCORIS does; PEFT divides an output of zeros by zero.
    norm = changed.flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
    return DoraLayer(inner=inner, ratio=magnitude.float().flatten() / norm)


def _applied(module: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the layer's output for another weight, without its bias."""
    weight = weight.to(x.dtype)
    if isinstance(module, torch.nn.Conv2d):
        return functional.conv2d(x, weight, None, module.stride, module.padding, module.dilation)
    return functional.linear(x, weight)


def _tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for one in value if isinstance(one, torch.Tensor)] if isinstance(value, tuple) else []


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return tuple(_moved(one, device) for one in value) if isinstance(value, tuple) else value
