"""Analyses one painted picture: the place of the figure, and its colours.

A pixel belongs to the figure if it is nearer to the figure's colours than to the background's, all of them as the
scene's style paints them. So a figure is found only in the requested colours.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from darkroom.schemas.events.keypoints import LIMBS
from darkroom.tools.tiny.training.figures import BEHIND, FIGURE, TROUSERS, Scene, labels, line_colour, styled
from darkroom.tools.tiny.training.grammar import COLOURS

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_BODY_LIMBS: Final = LIMBS[:13]
"""Without the face's limbs, which lie inside the head in any case."""
_SAMPLES: Final = 9
"""The number of points sampled on each limb."""


def figure_mask(pixels: Pixels, scene: Scene) -> Mask:
    """Return (height, width): true for pixels of figure or trousers."""
    look = scene.look
    behind = [look.background] if look.setting == "plain" else [look.background, look.second]
    paints = [styled(name, look.style) for name in (*behind, look.figure, look.trousers)]
    if look.style == "outline":
        paints.append(line_colour(look))
    distance = np.linalg.norm(pixels[..., None, :].astype(np.float32) - np.array(paints, dtype=np.float32), axis=-1)
    mask: Mask = distance.argmin(axis=-1) >= len(behind)
    return mask


def adherence(mask: Mask, scene: Scene) -> float:
    """Return the share of points on the scene's limbs that lie on the mask."""
    height, width = mask.shape
    found = []
    for person in scene.keypoints():
        for start, end in _BODY_LIMBS:
            a, b = person[start], person[end]
            if a is None or b is None:
                continue
            for share in np.linspace(0.0, 1.0, _SAMPLES):
                x, y = (a[axis] + (b[axis] - a[axis]) * share for axis in (0, 1))
                found.append(mask[min(int(y * height), height - 1), min(int(x * width), width - 1)])
    return float(np.mean(found))


def overlap(mask: Mask, scene: Scene) -> float:
    """Return the intersection over union of the mask and the figure as it would be drawn."""
    drawn = labels(scene) != BEHIND
    return float((mask & drawn).sum() / max(1, (mask | drawn).sum()))


def right_colours(pixels: Pixels, scene: Scene) -> tuple[bool, bool, bool]:
    """Return, for background, figure and trousers, true if the requested colour is the nearest of all ten.

    Compares the median over the pixels that belong to each in the drawn picture. For plain backgrounds.
    """
    names = list(COLOURS)
    paints = np.array([styled(name, scene.look.style) for name in names], dtype=np.float32)
    whose = labels(scene)
    asked = (scene.look.background, scene.look.figure, scene.look.trousers)

    def seen(label: int) -> str:
        middle = np.median(pixels[whose == label], axis=0)
        return names[int(np.linalg.norm(paints - middle, axis=1).argmin())]

    background, figure, trousers = (
        seen(label) == name for label, name in zip((BEHIND, FIGURE, TROUSERS), asked, strict=True)
    )
    return background, figure, trousers
