"""The requests that every generated client writes, and how what it wrote is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.wire.codec import decode_request

POINTS: Final = 17
REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "least": {"request_id": "order-1", "prompt": "a dancer"},
    "everything": {
        "request_id": "order-2", "tenant": "studio", "prompt": "a fencer", "negative_prompt": "blurry",
        "preset": "quality", "width": 1024, "height": 768, "steps": 30, "guidance_scale": 6.5, "sampler": "euler",
        "guidance_start": 0.1, "guidance_end": 0.8, "guidance_rescale": 0.7, "clip_skip": 1, "recipe": "portrait",
        "fidelity": "economy",
        "seed": 9007199254740000, "count": 2, "control_scale": 0.8, "control_start": 0.1, "control_end": 0.9,
        "adapter": {"name": "ink", "weight": 0.7}, "output": {"format": "webp", "quality": 85}, "priority": 7,
        "deadline": "2027-01-31T12:00:00Z", "progress": "steps", "labels": {"campaign": "spring"},
        "pose": {"people": [[*([[0.5, 0.25]] * (POINTS - 1)), None]], "format": "coco17"},
    },
    "stored": {
        "request_id": "order-3", "prompt": "a dancer", "pose": {"image": {"bucket": "darkroom", "key": "studio/p.png"}},
    },
}  # fmt: skip
"""Nothing but id and prompt; everything, with keypoints of which one is not seen; and the other kind of pose."""


def wrong_with(name: str, folder: Path, *, by_http: bool) -> str | None:
    """Return what is wrong with the request of this name that a client wrote to a folder; None where nothing is.

    It has to be decoded to the same request, digest included, as our own, without a warning. Over HTTP a request has no
    tenant, which is the key's.
    """
    ours = {key: value for key, value in REQUESTS[name].items() if not (by_http and key == "tenant")}
    expected = decode_request(json.dumps(ours).encode())
    file = folder / f"{name}.json"
    if not file.is_file():
        return "nothing was written"
    try:
        written = decode_request(file.read_bytes())
    except RequestRejected as error:
        return f"{error.code}: {error.message}"
    if written.warnings:
        return f"warned: {'; '.join(written.warnings)}"
    if written.request != expected.request or written.digest != expected.digest:
        return f"another request: {written.request!r}"
    return None
