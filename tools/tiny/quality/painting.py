"""Renders scenes with a worker's device, several rows at a time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.types import RenderedImage, RenderJob, RenderRequest
from darkroom.schemas.events.pose import PeoplePose
from darkroom.schemas.events.samplers import Sampler
from darkroom.tools.tiny.quality.looking import Pixels
from darkroom.tools.tiny.training.figures import Scene

ROWS = 8


@dataclass(frozen=True, slots=True)
class Ask:
    """The settings with which scenes are rendered."""

    seed: int = 0
    steps: int = 22
    guidance_scale: float = 5.0
    control_scale: float = 1.0
    posed: bool = True
    sampler: Sampler = "euler_ancestral"
    fidelity: str = "exact"


class Painter:
    """A loaded device that renders scenes."""

    def __init__(self, path: Path, controlnet_path: Path, *, threads: int = 1) -> None:
        self._device = SdxlDevice(path, controlnet_path, cpu_threads=threads, device="cpu")
        self._device.load()

    def paint(self, scenes: Sequence[Scene], ask: Ask, *, rows: int = ROWS) -> list[Pixels]:
        """Render one picture per scene, `rows` at a time. Scene number n has the seed `ask.seed + n`."""
        painted: list[Pixels] = []
        for start in range(0, len(scenes), rows):
            painted += self._together(scenes[start : start + rows], ask, start)
        return painted

    def close(self) -> None:
        """Free the model."""
        self._device.close()

    def _together(self, scenes: Sequence[Scene], ask: Ask, start: int) -> list[Pixels]:
        jobs = [
            RenderJob(job_id=f"scene-{start + place}", request=request(scene, ask, ask.seed + start + place))
            for place, scene in enumerate(scenes)
        ]
        rows = [row for job in jobs for row in self._device.prepare(job).rows]
        for _ in range(rows[0].steps_total):
            self._device.step(rows)
        pictures = []
        for outcome in self._device.finish(rows):
            if not isinstance(outcome, RenderedImage):
                raise outcome
            with Image.open(io.BytesIO(outcome.content)) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        return pictures


def request(scene: Scene, ask: Ask, seed: int) -> RenderRequest:
    """Return the request with a scene's caption and keypoints."""
    return RenderRequest(
        prompt=scene.text,
        negative_prompt=None,
        width=scene.width,
        height=scene.height,
        steps=ask.steps,
        guidance_scale=ask.guidance_scale,
        sampler=ask.sampler,
        fidelity=ask.fidelity,
        seed=seed,
        pose=PeoplePose(people=tuple(scene.keypoints())) if ask.posed else None,
        control_scale=ask.control_scale,
    )
