"""Lays out rows for the networks: assigns each slot of a forward to a row.

A step has up to two forwards: a full one over the rows whose next call is full, and a shallow one over the others. The
slots of the full one are every row's prompt, then the guided rows' negative prompts, then padding up to a bucket if
shapes are static; a shallow one has a slot a row. A layout holds everything that stays constant while a forward has the
same rows with the same controls in effect. It is made when a row joins or leaves, or when a control's window opens or
closes, and reused for the steps between.

Layouts hold copies of what rows bring, never a row: a row that left the device is freed with everything it kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from darkroom.inference.sdxl.denoise.adapters import Share, shares_of
from darkroom.inference.sdxl.denoise.compiled import StaticShapes
from darkroom.inference.sdxl.denoise.rows import Control, SdxlRow
from darkroom.inference.sdxl.denoise.union import union_part
from darkroom.inference.sdxl.prepare.conditions import CHUNK_VECTORS, TextEmbedding

_MASK_MULTIPLE: Final = 8
"""Kernels of xformers take a mask only where its rows begin at multiples of 8 numbers."""


@dataclass(frozen=True, slots=True)
class ControlledSlots:
    """The slots over which a ControlNet runs."""

    controlnet: int
    """The ControlNet's place among the loaded ones."""
    count: int
    """The number of slots without padding."""
    index: torch.Tensor
    """(padded count,) int64: the slots' indices; padding repeats the first."""
    embedding: torch.Tensor
    """(padded count, channels, latent height, latent width): control pictures after the ControlNet's own encoder."""
    weights: torch.Tensor
    """(padded count, 1, 1, 1) in the model's dtype."""
    tokens: torch.Tensor
    """(padded count, 77 x chunks, width)."""
    added: dict[str, torch.Tensor]
    """`text_embeds` (padded count, width) and `time_ids` (padded count, 6)."""
    kinds: torch.Tensor | None = None
    """(padded count, width of the time embedding): the kinds of the pictures, for a union ControlNet."""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """Everything that stays constant between two changes of the batch."""

    key: tuple[object, ...]
    """The rows and their control weights, as `key_of` returns them."""
    slots: int
    """The number of slots, padding included."""
    slot_rows: torch.Tensor
    """(slots,) int64: the index of the row that a slot serves; padding serves the first row."""
    away: torch.Tensor
    """(rows,) int64: the slot that guidance moves away from. A row without guidance names its own."""
    tokens: torch.Tensor
    """(slots, vectors, width)."""
    mask: torch.Tensor | None
    """(slots, vectors) in the model's dtype, 1 where a slot has a vector; None where every slot fills its place."""
    added: dict[str, torch.Tensor]
    """`text_embeds` (slots, width) and `time_ids` (slots, 6)."""
    controlled: tuple[ControlledSlots, ...]
    """One run of a ControlNet each, in the order in which their residuals are added up. A ControlNet runs once, and
    again for the rows that give it a second picture."""
    adapters: tuple[Share, ...]
    """The slots to which LoRAs are applied; empty if no row has an adapter."""
    rescaled: torch.Tensor | None
    """The places of the rows whose guided prediction is rescaled; None where there are none."""
    is_static: bool
    """True if every forward of the layout has a compiled shape."""

    def serves(self, rows: Sequence[SdxlRow]) -> bool:
        """Return true if this is still the layout of these rows at their next step."""
        return self.key == key_of(rows)


@dataclass(frozen=True, slots=True)
class ShallowLayout:
    """The same for a shallow forward: a slot a row, of its prompt."""

    key: tuple[object, ...]
    added: dict[str, torch.Tensor]
    """`text_embeds` (rows, width) and `time_ids` (rows, 6)."""
    adapters: tuple[Share, ...]
    rescaled: torch.Tensor | None

    def serves(self, rows: Sequence[SdxlRow]) -> bool:
        """Return true if this is still the layout of these rows at their next step."""
        return self.key == key_of(rows)


@dataclass(frozen=True, slots=True)
class Division:
    """The rows of a step by the forward that they take part in, and by their sampler's formula."""

    key: tuple[object, ...]
    full: tuple[int, ...]
    """The places of the rows whose call is full."""
    shallow: tuple[int, ...]
    full_index: torch.Tensor
    """(full rows,) int64: the same places on the device."""
    shallow_index: torch.Tensor
    back: torch.Tensor
    """(rows,) int64: the place of each row among full rows followed by shallow rows."""
    euler: torch.Tensor | bool
    """Whether all rows (True) or none (False) take Euler's own step; (rows, 1, 1, 1) where they differ."""

    def serves(self, rows: Sequence[SdxlRow]) -> bool:
        """Return true if this is still the division of these rows at their next step."""
        return self.key == _division_key(rows)


def key_of(rows: Sequence[SdxlRow]) -> tuple[object, ...]:
    """Return what a layout depends on: the rows, and by row its control weights and its guidance at the next step."""
    return tuple((row.serial, row.control_weights, row.is_guided) for row in rows)


def _division_key(rows: Sequence[SdxlRow]) -> tuple[object, ...]:
    return tuple((row.serial, row.next_is_full) for row in rows)


def divide(rows: Sequence[SdxlRow], device: torch.device) -> Division:
    """Divide the rows of a step by what their next call is."""
    full = tuple(place for place, row in enumerate(rows) if row.next_is_full)
    shallow = tuple(place for place, row in enumerate(rows) if not row.next_is_full)
    order = (*full, *shallow)
    return Division(
        key=_division_key(rows),
        full=full,
        shallow=shallow,
        full_index=_index(full, device),
        shallow_index=_index(shallow, device),
        back=_index([order.index(place) for place in range(len(rows))], device),
        euler=_same_or_each([row.schedule.is_euler for row in rows], device),
    )


def lay_out_shallow(rows: Sequence[SdxlRow], device: torch.device) -> ShallowLayout:
    """Make the layout of a shallow forward of rows whose latents have the same size."""
    return ShallowLayout(
        key=key_of(rows),
        added={
            "text_embeds": torch.cat([row.text.pooled for row in rows]),
            "time_ids": torch.cat([row.time_ids for row in rows]),
        },
        adapters=shares_of([row.adapters for row in rows], device),
        rescaled=_rescaled(rows, device),
    )


def lay_out(
    rows: Sequence[SdxlRow],
    shapes: StaticShapes,
    device: torch.device,
    dtype: torch.dtype,
    controlnets: Sequence[Any] = (),
) -> SlotLayout:
    """Make the layout of rows whose latents have the same size. Rows' controls name `controlnets` by their places."""
    guided = [place for place, row in enumerate(rows) if row.is_guided]
    texts = [*(row.text for row in rows), *(row.negative for row in rows if row.negative is not None and row.is_guided)]
    places = [*range(len(rows)), *guided]
    away = list(range(len(rows)))
    for slot, place in enumerate(guided, start=len(rows)):
        away[place] = slot
    runs = _runs(rows, places, controlnets)
    height, width = rows[0].latents.shape[-2:]
    if any(row.adapters for row in rows) or any(text.chunks > 1 for text in texts):
        # Compiled blocks would ignore adapters and know one text length, so the step runs eagerly, without padding.
        shapes = StaticShapes()
    # No run has more slots than the UNet, so they fit a bucket wherever the UNet's do.
    control_slots = max(map(len, runs.values()), default=0)
    padded = shapes.pad(height, width, unet_slots=len(places), control_slots=control_slots)
    places += [0] * (padded.unet_slots - len(places))
    texts += [texts[0]] * (padded.unet_slots - len(texts))
    tokens, mask = _side_by_side(texts)
    added = {
        "text_embeds": torch.cat([text.pooled for text in texts]),
        "time_ids": torch.cat([rows[place].time_ids for place in places]),
    }
    return SlotLayout(
        key=key_of(rows),
        slots=len(places),
        slot_rows=_index(places, device),
        away=_index(away, device),
        tokens=tokens,
        mask=mask,
        added=added,
        controlled=tuple(
            _controlled(run, parts, shapes.bucket(len(parts)) or len(parts), texts, added, dtype)
            if padded.is_static
            else _controlled(run, parts, len(parts), texts, added, dtype)
            for run, parts in runs.items()
        ),
        adapters=shares_of([rows[place].adapters for place in places], device),
        rescaled=_rescaled(rows, device),
        is_static=padded.is_static,
    )


class _Followed(NamedTuple):
    """One row's part in a run of a ControlNet."""

    embedding: torch.Tensor
    weight: float
    kinds: torch.Tensor | None = None
    """As `darkroom.inference.sdxl.denoise.union.Joined` has it; None for a plain ControlNet."""


_Run = tuple[int, int]
"""A ControlNet's place, and how many pictures a row gave it before the one of this run."""


def _followed(row: SdxlRow, controlnets: Sequence[Any]) -> dict[_Run, _Followed]:
    """Return the row's part in each run at its next step: nothing of controls that are not in effect.

    A union ControlNet takes all pictures that the row gives it at once, as long as one of them is in effect.
    """
    parts: dict[_Run, _Followed] = {}
    uses: Counter[int] = Counter()
    joined: dict[int, list[tuple[Control, float]]] = {}
    for control, weight in zip(row.controls, row.control_weights, strict=True):
        place = control.controlnet
        if control.task is not None:
            joined.setdefault(place, []).append((control, weight))
        elif weight != 0.0:
            parts[place, uses[place]] = _Followed(control.embedding, weight)
            uses[place] += 1
    for place, given in joined.items():
        union = union_part(controlnets[place])
        if union is not None and any(weight for _, weight in given):
            made = union.join(
                [control.embedding for control, _ in given],
                [control.task for control, _ in given if control.task is not None],
                [weight for _, weight in given],
            )
            parts[place, 0] = _Followed(made.embedding, made.weight, made.kinds)
    return parts


def _runs(
    rows: Sequence[SdxlRow], places: Sequence[int], controlnets: Sequence[Any]
) -> dict[_Run, list[tuple[int, _Followed]]]:
    """Return the slots of each run with their rows' parts in it, in the order of the ControlNets."""
    followed = [_followed(row, controlnets) for row in rows]
    runs: dict[_Run, list[tuple[int, _Followed]]] = {}
    for slot, place in enumerate(places):
        for run, part in followed[place].items():
            runs.setdefault(run, []).append((slot, part))
    return dict(sorted(runs.items()))


def _controlled(  # noqa: PLR0917 - what a run is made from
    run: _Run,
    parts: list[tuple[int, _Followed]],
    slots: int,
    texts: Sequence[TextEmbedding],
    added: dict[str, torch.Tensor],
    dtype: torch.dtype,
) -> ControlledSlots:
    """Return a run over the slots of `parts`, padded to `slots`."""
    count = len(parts)
    parts = parts + parts[:1] * (slots - count)
    # diffusers' ControlNet takes no mask for texts.
    tokens = _repeated([texts[slot] for slot, _ in parts])
    index = _index([slot for slot, _ in parts], tokens.device)
    weights = torch.tensor([part.weight for _, part in parts], dtype=dtype).to(tokens.device, non_blocking=True)
    kinds = [part.kinds for _, part in parts if part.kinds is not None]
    return ControlledSlots(
        controlnet=run[0],
        count=count,
        index=index,
        embedding=torch.cat([part.embedding for _, part in parts]),
        weights=weights.view(-1, 1, 1, 1),
        tokens=tokens,
        added={name: values[index] for name, values in added.items()},
        kinds=torch.cat(kinds) if kinds else None,
    )


def _side_by_side(texts: Sequence[TextEmbedding]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the texts' vectors as one tensor, and a mask where texts of different lengths need one.

    Repeating costs nothing where the longest text is a multiple of the others. Else it would: texts of 3 and 4 chunks
    have 12 in common. Then the vectors behind a shorter text are zeros that a mask hides.
    """
    longest = max(text.chunks for text in texts)
    if all(longest % text.chunks == 0 for text in texts):
        return _repeated(texts), None
    first = texts[0].tokens
    length = -(-longest * CHUNK_VECTORS // _MASK_MULTIPLE) * _MASK_MULTIPLE
    tokens = first.new_zeros(len(texts), length, first.shape[-1])
    mask = first.new_zeros(len(texts), length)
    for slot, text in enumerate(texts):
        own = text.chunks * CHUNK_VECTORS
        tokens[slot, :own] = text.tokens[0]
        mask[slot, :own] = 1
    return tokens, mask


def _repeated(texts: Sequence[TextEmbedding]) -> torch.Tensor:
    """Return the texts' vectors, each text repeated as a whole to their least common number of chunks.

    Attention has no positions: a text repeated as a whole weighs nothing differently.
    """
    chunks = math.lcm(*(text.chunks for text in texts))
    return torch.cat([text.tokens.repeat(1, chunks // text.chunks, 1) for text in texts])


def _rescaled(rows: Sequence[SdxlRow], device: torch.device) -> torch.Tensor | None:
    places = [place for place, row in enumerate(rows) if row.is_guided and row.guidance.rescale > 0]
    return _index(places, device) if places else None


def _same_or_each(flags: list[bool], device: torch.device) -> torch.Tensor | bool:
    if all(flags) or not any(flags):
        return flags[0]
    return torch.tensor(flags).to(device, non_blocking=True).view(-1, 1, 1, 1)


def _index(places: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.int64).to(device, non_blocking=True)
