"""Measures the quality table.

The scenes are drawn from random seeds that training never used, and no decision was made on them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

import numpy as np

from darkroom.schemas.events.samplers import SAMPLERS, Sampler
from darkroom.tools.tiny.quality.looking import Pixels, adherence, figure_mask, overlap, right_colours
from darkroom.tools.tiny.quality.painting import Ask, Painter
from darkroom.tools.tiny.training.figures import Scene, random_scene

SAMPLER_STEPS: Final = (10, 22)
"""Few steps, and the preset's."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the quality table."""

    what: str
    value: float
    goal: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class SamplerLine:
    """One line of the samplers' table: shares at each of `SAMPLER_STEPS`."""

    sampler: str
    limbs: tuple[float, ...]
    """Of limb samples on the figure."""
    colours: tuple[float, ...]
    """Of pictures with all three colours right."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality table, with the scenes and pictures from which it was measured."""

    lines: tuple[Line, ...]
    scenes: tuple[Scene, ...]
    pictures: tuple[Pixels, ...]
    samplers: tuple[SamplerLine, ...] = ()

    def value(self, what: str) -> float:
        """Return a line's value. Raises `KeyError` for an unknown line."""
        return {line.what: line.value for line in self.lines}[what]

    def text(self) -> str:
        """Return both tables in Markdown."""
        rows = [f"| {line.what} | {line.value:.3g}{line.unit} | {line.goal} |" for line in self.lines]
        return "\n".join(["| what | measured | goal |", "|---|---|---|", *rows, "", samplers_text(self.samplers)])


def samplers_text(lines: Sequence[SamplerLine]) -> str:
    """Return the samplers' table in Markdown."""
    named = [
        f"{what}, {steps} steps"
        for what in ("limb samples on the figure", "all three colours right")
        for steps in SAMPLER_STEPS
    ]
    rows = [
        " | ".join([f"| `{line.sampler}`", *(f"{one:.3g}" for one in (*line.limbs, *line.colours))]) for line in lines
    ]
    return "\n".join(
        [f"| sampler | {' | '.join(named)} |", f"|---{'|---' * len(named)}|", *(f"{row} |" for row in rows)]
    )


def fresh_scenes(count: int, *, people: int = 1, simple: bool = True) -> list[Scene]:
    """Return held-out scenes, the same ones every time."""
    dice = random.Random(f"darkroom-tiny fresh {people} {simple}")  # noqa: S311 - to be repeated
    return [random_scene(dice, people=people, simple=simple) for _ in range(count)]


def measure(painter: Painter, count: int, report: Callable[[str], None], *, ask: Ask | None = None) -> Quality:
    """Render `count` fresh scenes, and an eighth as many for each further measure, and measure the table."""
    ask = ask or Ask()
    few = max(4, count // 8)
    report(f"one person, {count} pictures")
    scenes = fresh_scenes(count)
    pictures = painter.paint(scenes, ask)
    lines = [*_one_person(scenes, pictures), *_others(painter, few, ask, report)]
    lines += [*_effects(painter, scenes[:few], pictures[:few], ask, report), *_times(painter, scenes, ask, report)]
    samplers = measure_samplers(painter, scenes[:few], ask, report)
    shown = fresh_scenes(few, people=2, simple=False) + fresh_scenes(few, simple=False)
    report(f"for the sheet, {len(shown)} pictures")
    return Quality(tuple(lines), (*scenes, *shown), (*pictures, *painter.paint(shown, ask)), samplers)


def measure_samplers(
    painter: Painter, scenes: Sequence[Scene], ask: Ask, report: Callable[[str], None]
) -> tuple[SamplerLine, ...]:
    """Render the scenes with each sampler, on the model's own schedule, at each of `SAMPLER_STEPS`."""
    report(f"samplers, {len(SAMPLERS) * len(SAMPLER_STEPS)} times {len(scenes)} pictures")
    lines = []
    for sampler in get_args(Sampler):
        painted = [painter.paint(scenes, replace(ask, sampler=sampler, steps=steps)) for steps in SAMPLER_STEPS]
        lines.append(
            SamplerLine(
                sampler,
                tuple(posture(scenes, pictures)[0] for pictures in painted),
                tuple(colours(scenes, pictures)[-1] for pictures in painted),
            )
        )
    return tuple(lines)


def posture(scenes: Sequence[Scene], pictures: Sequence[Pixels]) -> tuple[float, float]:
    """Return the adherence to the requested poses, and to the next scene's poses for comparison."""
    masks = [figure_mask(pixels, scene) for scene, pixels in zip(scenes, pictures, strict=True)]
    others = [*scenes[1:], scenes[0]]
    return (
        _mean([adherence(mask, scene) for mask, scene in zip(masks, scenes, strict=True)]),
        _mean([adherence(mask, scene) for mask, scene in zip(masks, others, strict=True)]),
    )


def colours(scenes: Sequence[Scene], pictures: Sequence[Pixels]) -> tuple[float, float, float, float]:
    """Return the shares of backgrounds, figures and trousers with the right colour, and of pictures with all three."""
    right = np.array([right_colours(pixels, scene) for scene, pixels in zip(scenes, pictures, strict=True)])
    background, figure, trousers = (float(share) for share in right.mean(axis=0))
    return background, figure, trousers, float(right.all(axis=1).mean())


def _one_person(scenes: Sequence[Scene], pictures: Sequence[Pixels]) -> list[Line]:
    asked, another = posture(scenes, pictures)
    background, figure, trousers, every = colours(scenes, pictures)
    overlaps = [overlap(figure_mask(pixels, scene), scene) for scene, pixels in zip(scenes, pictures, strict=True)]
    return [
        Line("limb samples on the figure", asked, "0.98"),
        Line("the same with another picture's pose", another, "at most 0.35"),
        Line("overlap with the figure as drawn (IoU)", _mean(overlaps), "0.88"),
        Line("figure's colour right", figure, "0.95"),
        Line("trousers' colour right", trousers, "0.95"),
        Line("background's colour right", background, "0.95"),
        Line("all three right", every, "0.90"),
    ]


def _others(painter: Painter, count: int, ask: Ask, report: Callable[[str], None]) -> list[Line]:
    report(f"two people, {count} pictures")
    two = fresh_scenes(count, people=2)
    asked, _ = posture(two, painter.paint(two, ask))
    report(f"other backgrounds and missing joints, {count} pictures")
    varied = fresh_scenes(count, simple=False)
    varied_asked, _ = posture(varied, painter.paint(varied, ask))
    return [
        Line("limb samples on the figures, two people", asked, "0.90"),
        Line("limb samples on the figure, any background, missing joints", varied_asked),
    ]


def _effects(
    painter: Painter,
    scenes: Sequence[Scene],
    pictures: Sequence[Pixels],
    ask: Ask,
    report: Callable[[str], None],
) -> list[Line]:
    report(f"effects of seed, guidance and ControlNet scale, 5 times {len(scenes)} pictures")
    again = painter.paint(scenes, replace(ask, seed=ask.seed + 100_000))
    moved = [np.abs(a.astype(float) - b).mean() for a, b in zip(again, pictures, strict=True)]
    lines = [Line("mean difference between two seeds", _mean(moved), unit=" of 255")]
    for guidance in (1.0, 9.0):
        *_, every = colours(scenes, painter.paint(scenes, replace(ask, guidance_scale=guidance)))
        lines.append(Line(f"all three colours right at guidance {guidance:g}", every))
    for scale in (0.0, 0.5):
        asked, _ = posture(scenes, painter.paint(scenes, replace(ask, control_scale=scale)))
        lines.append(Line(f"limb samples on the figure at ControlNet scale {scale:g}", asked))
    return lines


def _times(painter: Painter, scenes: Sequence[Scene], ask: Ask, report: Callable[[str], None]) -> list[Line]:
    report("times")
    some = [*scenes, *scenes][:8]

    def seconds(rows: int) -> float:
        began = time.process_time()
        painter.paint(some, ask, rows=rows)
        return (time.process_time() - began) / len(some)

    alone, together = seconds(1), seconds(8)
    return [
        Line("one picture alone", alone, "at most 3 s", " s of one CPU core"),
        Line("one picture in a batch of eight", together, "", " s of one CPU core"),
        Line("eight in a batch against eight alone", together / alone, "at most 0.6"),
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
