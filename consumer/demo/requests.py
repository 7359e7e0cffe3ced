"""The requests that the demo sends."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

from darkroom.schemas.events.request import GenerationRequest

STANDING = [
    [0.5, 0.14], [0.5, 0.26], [0.38, 0.26], [0.33, 0.42], [0.3, 0.56], [0.62, 0.26], [0.67, 0.42], [0.7, 0.56],
    [0.43, 0.54], [0.42, 0.73], [0.41, 0.92], [0.57, 0.54], [0.58, 0.73], [0.59, 0.92], [0.48, 0.12], [0.52, 0.12],
    [0.45, 0.13], [0.55, 0.13],
]  # fmt: skip
"""A person who stands, in OpenPose's order of 18 points."""
CHEERING = [
    [0.5, 0.2], [0.5, 0.3], [0.38, 0.3], [0.27, 0.19], [0.22, 0.06], [0.62, 0.3], [0.73, 0.19], [0.78, 0.06],
    [0.43, 0.57], [0.36, 0.74], [0.28, 0.9], [0.57, 0.57], [0.64, 0.74], [0.72, 0.9], [0.48, 0.18], [0.52, 0.18],
    [0.45, 0.19], [0.55, 0.19],
]  # fmt: skip
"""A person with arms and legs apart."""
DANCING = [
    [0.47, 0.15], [0.49, 0.245], [0.415, 0.255], [0.3, 0.2], [0.22, 0.1], [0.565, 0.24], [0.68, 0.28], [0.79, 0.22],
    [0.465, 0.5], [0.345, 0.61], [0.47, 0.725], [0.555, 0.495], [0.57, 0.7], [0.545, 0.905], [0.45, 0.136],
    [0.485, 0.132], [0.432, 0.15], [0.51, 0.142],
]  # fmt: skip
"""A person on one leg."""


PHOTO: Final = Path(__file__).with_name("demo_photo.jpg")
"""An astronaut; demo_photo.txt says whose."""


def sample_requests(serial: str, *, with_photo: bool) -> list[GenerationRequest]:
    """Return twelve requests of mixed steps, guidance and poses, the last without one. `serial` makes their ids new.

    `with_photo`: the tenth's pose is a photo, for which the worker needs a detector.
    """
    posed: dict[int, Any] = {11: None}
    if with_photo:
        posed[9] = {"photo": {"inline": base64.b64encode(PHOTO.read_bytes()).decode()}}
    poses = [{"people": [person]} for person in (CHEERING, STANDING, DANCING)]
    # The built-in model speaks the small language that it was trained with, and nothing else.
    prompts = (
        "a red figure with blue trousers on a green background",
        "a yellow dancer with purple trousers on a blue background, watercolour",
        "a white figure with black trousers on a red background, outline",
        "a pink figure with grey trousers on a yellow ground under a blue sky",
    )
    return [
        GenerationRequest.model_validate(
            {
                "request_id": f"demo-{serial}-{number:02}",
                "prompt": prompts[number % len(prompts)],
                "pose": posed.get(number, poses[number % len(poses)]),
                "steps": (20, 25, 30, 40)[number % 4],
                "guidance_scale": (5.0, 1.0, 7.5)[number % 3],
                "count": 2 if number == 5 else 1,
                "seed": 1000 + number,
                "progress": "steps",
                "labels": {"sample": "demo"},
            }
        )
        for number in range(12)
    ]
