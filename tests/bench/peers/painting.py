"""What every peer does with a request: one pipeline call for those that may share one, and PNG bytes of each picture.

A pipeline call has one number of steps, one guidance scale and one size, and takes poses or takes none.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Request = dict[str, Any]
"""A generation request as it stands in its record."""

ROWS_MAX = 8
"""Requests of one call: as many as Darkroom lets share a step by default."""


def groups(requests: Sequence[Request], rows_max: int = ROWS_MAX) -> list[list[int]]:
    """Places of the requests that share a call, at most `rows_max`, in the order of each call's first."""
    alike: dict[tuple[int, float, int, int, bool], list[int]] = {}
    for place, request in enumerate(requests):
        size = request["width"], request["height"]
        kind = (request["steps"], request["guidance_scale"], *size, bool(request.get("pose")))
        alike.setdefault(kind, []).append(place)
    calls = [places[at : at + rows_max] for places in alike.values() for at in range(0, len(places), rows_max)]
    return sorted(calls)


class Painter:
    """The resident pipelines, with a ControlNet and without, which share their parts."""

    def __init__(self, plain: Any, posed: Any, generator: Callable[[int], Any] | None, calls: Path | None) -> None:
        """`generator` makes one of a seed. `calls` is a file that a line is written to for each pipeline call."""
        self._plain, self._posed, self._generator = plain, posed, generator
        self._calls = None if calls is None else calls.open("a", buffering=1)

    @classmethod
    def from_environment(cls) -> Painter:
        """Stand-ins where `SIMULATED_PROFILE` names a profile, else the built-in model; calls go to `CALLS_FILE`."""
        calls = os.environ.get("CALLS_FILE")
        profile = os.environ.get("SIMULATED_PROFILE")
        if profile is not None:
            from tests.bench.peers.stand_in import StandInControlNetPipeline, StandInPipeline

            sleeping = StandInPipeline.from_profile(Path(profile))
            sleeping_posed = StandInControlNetPipeline.from_profile(Path(profile))
            return cls(sleeping, sleeping_posed, None, Path(calls) if calls else None)
        import torch

        from darkroom.inference.tiny import trained_model
        from tests.bench.contenders import load_pipelines

        torch.set_num_threads(1)
        plain, posed = load_pipelines(trained_model())

        def generator(seed: int) -> Any:
            return torch.Generator("cpu").manual_seed(seed)

        return cls(plain, posed, generator, Path(calls) if calls else None)

    def paint(self, requests: Sequence[Request]) -> list[bytes]:
        """PNG bytes of requests that may share a call, in one call."""
        first = requests[0]
        arguments: dict[str, Any] = {
            "prompt": [request["prompt"] for request in requests],
            "num_inference_steps": first["steps"],
            "guidance_scale": first["guidance_scale"],
            "width": first["width"],
            "height": first["height"],
        }
        if self._generator is not None:
            arguments["generator"] = [self._generator(request["seed"]) for request in requests]
        pipeline = self._plain
        if first.get("pose"):
            pipeline = self._posed
            arguments["image"] = [opened(request["pose"]) for request in requests]
        began = time.time()
        pictures = pipeline(**arguments).images
        if self._calls is not None:
            called = {"began": began, "ended": time.time(), "rows": len(requests), "steps": first["steps"]}
            self._calls.write(json.dumps(called) + "\n")
        return [_png(picture) for picture in pictures]


def opened(pose: dict[str, Any]) -> Image.Image:
    """The picture of a pose, as a pipeline takes it."""
    content = base64.b64decode(pose["image"]["inline"])
    return Image.open(io.BytesIO(content)).convert("RGB")


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
