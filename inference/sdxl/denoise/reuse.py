"""Economy: most calls of the UNet compute its outermost layers alone, and reuse the deep ones of an earlier call.

Neighbouring steps give the deep layers nearly the same features (DeepCache, Ma et al. 2023). A *full* call runs both
networks and keeps, by row, the input of the UNet's last block, the ControlNets' residuals (added up) of the skip
connections that reach this block, and the difference that guidance makes. A *shallow* call runs the first and the last
block for the prompt alone: no ControlNet, no negative prompt. What is kept belongs to the row, and which calls are full
follows from the row's own request and step. So an economy picture does not depend on its company either.

Which calls are full is decided by `darkroom.inference.planning.reuse`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from darkroom.inference.planning.reuse import rule_of


class ReusePlan(NamedTuple):
    """The calls of one row that are full, and what the others make of the kept difference."""

    full: tuple[bool, ...]
    ahead: tuple[float, ...]
    """The multiple of the last change of guidance's difference that is added to it."""

    def keeps(self, call: int) -> bool:
        """Return True if a call after number `call` reuses something."""
        return not all(self.full[call + 1 :])


def plan_reuse(sampler: str, weights: Sequence[tuple[float, ...]], guided: Sequence[bool]) -> ReusePlan | None:
    """Return what a row's calls reuse, or None if all of them have to be full.

    `weights` are those of the row's controls by call, `guided` says which calls are guided. A call is full, too, if its
    controls have other weights than in the last full call, or if guidance begins with it.
    """
    rule = rule_of(sampler)

    def is_forced(call: int, last: int) -> bool:
        return weights[call] != weights[last] or (guided[call] and not guided[last])

    full = rule.full_calls(len(weights), is_forced)
    if all(full):
        return None
    ahead = []
    before, last = None, 0
    for call, is_full in enumerate(full):
        looks_back = before is not None and guided[before] and not is_full
        ahead.append(rule.ahead * (call - last) / (last - before) if looks_back and before is not None else 0.0)
        if is_full and call:
            before, last = last, call
    return ReusePlan(full, tuple(ahead))


class Kept(NamedTuple):
    """The tensors that a full call leaves to the shallow calls after it: the row's own, never written to."""

    deep: torch.Tensor
    """(1, channels, latent height, latent width) in the model's dtype: the input of the UNet's last block, prompt."""
    residuals: tuple[torch.Tensor, ...]
    """The ControlNets' residuals of the last block's skip connections, prompt; empty without a control in effect."""
    delta: torch.Tensor | None
    """(1, channels, latent height, latent width) fp32: the prompt's prediction less the negative prompt's. None where
    the call was not guided."""
    delta_before: torch.Tensor | None = None
    """The same of the full call before; None where there is none."""


class Reused(NamedTuple):
    """A shallow call's input besides the latents: every tensor has a row for each row of the call."""

    deep: torch.Tensor
    residuals: tuple[torch.Tensor, ...]
    """Empty if no row has any."""
    delta: torch.Tensor
    """0 for rows without guidance."""


def gathered(kept: Sequence[Kept], guided: Sequence[bool], ahead: torch.Tensor, nothing: torch.Tensor) -> Reused:
    """Return what the rows of a shallow call reuse.

    `ahead` is (rows, 1, 1, 1) fp32, from `ReusePlan`; `nothing` is the difference that guidance makes where there is
    none: zeros, fp32, in the shape of one row's latents.
    """
    last = [
        one.delta if is_guided and one.delta is not None else nothing
        for one, is_guided in zip(kept, guided, strict=True)
    ]
    delta = torch.cat(last)
    if any(one.delta_before is not None for one in kept):
        before = [
            now if now is nothing or one.delta_before is None else one.delta_before
            for one, now in zip(kept, last, strict=True)
        ]
        delta = delta + ahead * (delta - torch.cat(before))
    return Reused(torch.cat([one.deep for one in kept]), _residuals(kept), delta)


def _residuals(kept: Sequence[Kept]) -> tuple[torch.Tensor, ...]:
    some = next((one.residuals for one in kept if one.residuals), None)
    if some is None:
        return ()
    nothing = tuple(torch.zeros_like(one) for one in some)
    return tuple(torch.cat(parts) for parts in zip(*(one.residuals or nothing for one in kept), strict=True))


class ShallowNetwork:
    """The outermost layers of a UNet, and a look at what its deep layers hand to them.

    The layers are the UNet's own: adapters that are applied to them, and moves between devices, apply here, too.
    """

    def __init__(self, unet: Any) -> None:
        """Take the layers of a UNet that `darkroom.inference.sdxl.loading.checks.economy_refused` accepts."""
        self._unet = unet
        self.residuals = len(unet.up_blocks[-1].resnets)
        """The number of the ControlNet's residuals that reach the last block: its first ones."""

    def deep_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return channels, height and width of the last block's input for latents of a size."""
        # The block's first layer takes this input beside the last skip connection.
        skip = self._unet.down_blocks[0].resnets[-1].out_channels
        return self._unet.up_blocks[-1].resnets[0].in_channels - skip, height, width

    @contextmanager
    def watching(self) -> Iterator[list[torch.Tensor]]:
        """Collect the last block's input, by slot, from each forward of the UNet inside the block."""
        seen: list[torch.Tensor] = []
        block = self._unet.up_blocks[-1]

        def look(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(named["hidden_states"] if "hidden_states" in named else positional[0])

        hook = block.register_forward_pre_hook(look, with_kwargs=True)
        try:
            yield seen
        finally:
            hook.remove()

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        added: dict[str, torch.Tensor],
        deep: torch.Tensor,
        residuals: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Return the prediction from `deep`, as `UNet2DConditionModel.forward` of diffusers ends, in its order."""
        unet = self._unet
        time = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep), None)
        time = time + unet.get_aug_embed(emb=time, encoder_hidden_states=None, added_cond_kwargs=added)
        hidden = unet.conv_in(sample)
        skips = [hidden]
        for resnet in unet.down_blocks[0].resnets:
            hidden = resnet(hidden, time)
            skips.append(hidden)
        if residuals:
            skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]
        hidden = unet.up_blocks[-1](
            hidden_states=deep, temb=time, res_hidden_states_tuple=tuple(skips), upsample_size=None
        )
        predicted: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return predicted
