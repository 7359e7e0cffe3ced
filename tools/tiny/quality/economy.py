"""Compares economy pictures with exact ones on fresh scenes: `python -m darkroom.tools.tiny.quality.economy`.

Pairs are appended to a file as they are painted, so that a measurement may be made in parts. The table is of all pairs
in the file. Processor time counts everything from the request to the pixels of the decoded file, in batches of eight
with poses, one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from darkroom.schemas.events.samplers import SAMPLERS
from darkroom.tools.tiny.quality.looking import Pixels, adherence, figure_mask, right_colours
from darkroom.tools.tiny.quality.painting import ROWS, Ask, Painter
from darkroom.tools.tiny.quality.sheet import contact_sheet
from darkroom.tools.tiny.quality.table import fresh_scenes
from darkroom.tools.tiny.training.figures import Scene

_SHOWN: Final = 24
"""Pairs on the contact sheet."""
_FIDELITIES: Final = ("exact", "economy")


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two pictures in dB; 100 for equal ones."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))


def measure_pairs(
    painter: Painter, scenes: Sequence[Scene], ask: Ask
) -> Iterator[tuple[list[dict[str, Any]], list[Pixels]]]:
    """Paint each scene exactly and with economy; yield what was measured of a batch of pairs, and its pictures."""
    for start in range(0, len(scenes), ROWS):
        some = scenes[start : start + ROWS]
        painted, seconds = [], []
        for fidelity in _FIDELITIES:
            began = time.process_time()
            painted.append(painter.paint(some, replace(ask, seed=ask.seed + start, fidelity=fidelity)))
            seconds.append((time.process_time() - began) / len(some))
        lines: list[dict[str, Any]] = []
        shown: list[Pixels] = []
        for scene, *pair in zip(some, *painted, strict=True):
            shown += pair
            lines.append(
                {
                    "sampler": ask.sampler,
                    "psnr": psnr(*pair),
                    "cpu_s": seconds,
                    "adherence": [adherence(figure_mask(pixels, scene), scene) for pixels in pair],
                    "colours": [all(right_colours(pixels, scene)) for pixels in pair],
                }
            )
        yield lines, shown


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of pairs by sampler in Markdown."""
    rows = []
    for sampler in dict.fromkeys(line["sampler"] for line in lines):
        some = [line for line in lines if line["sampler"] == sampler]
        noises = sorted(line["psnr"] for line in some)
        worst = noises[: max(1, len(noises) // 10)]
        cpu, limbs, colours = (
            np.mean([line[what] for line in some], axis=0) for what in ("cpu_s", "adherence", "colours")
        )
        rows.append(
            f"| `{sampler}` | {len(some)} | {np.mean(noises):.1f} | {np.mean(worst):.1f} | {cpu[0] / cpu[1]:.2f} "
            f"| {limbs[0]:.3f}, {limbs[1]:.3f} | {colours[0]:.3f}, {colours[1]:.3f} |"
        )
    head = "| sampler | pairs | PSNR, dB | worst tenth | CPU time, exact over economy | limbs | colours |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


@click.command()
@click.option("--sampler", type=click.Choice(SAMPLERS), multiple=True, default=("euler", "dpmpp_2m", "euler_ancestral"))
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="The first scene.")
@click.option("--count", type=click.IntRange(1), default=200, show_default=True, help="Scenes for each sampler.")
@click.option("--steps", type=click.IntRange(1, 150), default=22, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("quality-out"), show_default=True)
def economy(sampler: tuple[Any, ...], start: int, count: int, steps: int, out: Path) -> None:
    """Paint pairs with the built-in model; print the table and write economy.jsonl and contact sheets."""
    import torch

    from darkroom.inference.tiny.folder import trained_model

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    model, scenes = trained_model(), fresh_scenes(start + count)[start:]
    painter = Painter(model.path, model.controlnet_path)
    file = out / "economy.jsonl"
    for name in sampler:
        shown: list[Pixels] = []
        for lines, pictures in measure_pairs(painter, scenes, Ask(seed=start, steps=steps, sampler=name)):
            shown += pictures
            with file.open("a", encoding="utf-8") as written:
                written.writelines(json.dumps(line) + "\n" for line in lines)
        few = min(_SHOWN // len(sampler), len(scenes))
        doubled = [scene for scene in scenes[:few] for _ in _FIDELITIES]
        contact_sheet(doubled, shown[: 2 * few]).save(out / f"economy-{name}.png")
    click.echo(table([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    economy()
