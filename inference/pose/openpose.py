"""controlnet-aux's OpenPose body detector, with its weights read safely and its work bounded.

An optional extra (darkroom[pose]): CMU's licence of the OpenPose code allows non-commercial use only. Importing the
library takes seconds and hundreds of modules, so a worker without its weights does not import this module.

The library unpickles its weights, which runs any code in the file. Here they are read as tensors only, from a .pth
state dict or from safetensors, and put into the library's network.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from darkroom.inference.pose.photo import DetectedPerson, PoseDetector
from darkroom.inference.types import FaultKind, ModelError, RenderFault

WEIGHTS_STEM: Final = "body_pose_model"
CANDIDATES_MAX: Final = 32
"""Limit on the places in a photo where one kind of joint may be: four times the people of a pose. The library tries
every pair of places for every limb, at some 40 us each in Python, so a photo of noise with a thousand places would take
hours."""

_PEAK_MIN: Final = 0.1
"""The heatmap level from which the library treats a peak as a joint."""
_PIXELS_OF_CELL: Final = 64
"""A heatmap has one cell for 8 x 8 pixels of the network's input."""


class OpenPoseDetector(PoseDetector):
    """`PoseDetector` by OpenPose's body network."""

    def __init__(self, network: torch.nn.Module, digest: str) -> None:
        """Make a detector. Raises `ModelError` if the extra is not installed.

        `network` maps pixels (1, 3, height, width) to limb fields (1, 38, height / 8, width / 8) and 19 heatmaps.
        """
        library = _library()
        # Its constructor unpickles the weights and sets nothing besides the network.
        body = library.body.Body.__new__(library.body.Body)
        body.model = _BoundedNetwork(network)
        self._detector = library.OpenposeDetector(body)
        self._digest = digest

    @property
    def digest(self) -> str:
        """The digest of the weight file's bytes and the library's version."""
        return self._digest

    def find(self, picture: Image.Image) -> Sequence[DetectedPerson]:
        """Find everybody, as `PoseDetector.find`. Fault: `pose_unreadable` for more people than can be told apart."""
        found = self._detector.detect_poses(np.asarray(picture))
        return [_person(pose.body.keypoints) for pose in found]


def _person(keypoints: Sequence[Any]) -> DetectedPerson:
    """Convert a person of controlnet-aux. Its score is the mean of its points' scores: the library's grows with the
    points."""
    scores = tuple(0.0 if point is None else float(point.score) for point in keypoints)
    seen = [score for point, score in zip(keypoints, scores, strict=True) if point is not None]
    return DetectedPerson(
        points=tuple(None if point is None else (float(point.x), float(point.y)) for point in keypoints),
        score=sum(seen) / len(seen) if seen else 0.0,
        scores=scores,
    )


class _BoundedNetwork(torch.nn.Module):
    """Refuses a photo with more candidates than the library can pair in a moment."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fields, heatmaps = self.network(pixels)
        candidates = most_candidates(heatmaps[0, :18])
        if candidates > CANDIDATES_MAX:
            raise RenderFault(
                FaultKind.REQUEST,
                "pose_unreadable",
                f"The OpenPose detector cannot tell apart the people in the pose's photo: it sees {candidates} places "
                f"for one joint, at most {CANDIDATES_MAX} are tried. Crop it to the people who are meant.",
            )
        return fields, heatmaps


def most_candidates(heatmaps: torch.Tensor) -> int:
    """Return the most pixels at which one part may be, in heatmaps of (parts, height, width). A plateau's pixels all
    count."""
    highest = torch.nn.functional.max_pool2d(heatmaps, 3, stride=1, padding=1)
    tops = ((heatmaps >= highest) & (heatmaps > _PEAK_MIN)).float()
    around = torch.nn.functional.avg_pool2d(tops, 3, stride=1, padding=1, divisor_override=1)
    flat = tops * (around > 1)
    return int((tops + (_PIXELS_OF_CELL - 1) * flat).sum(dim=(1, 2)).max())


def load_detector(path: Path, device: torch.device) -> OpenPoseDetector:
    """Load the weights at `path`: a file, or a folder with body_pose_model.safetensors or body_pose_model.pth.

    Tensors are named as in OpenPose's own file (`conv1_1.weight`) or with the network's blocks before it. Raises
    `ModelError`.
    """
    file = _weights_file(path)
    library = _library()
    tensors = _read(file)
    # Without memory: drawing fifty million random numbers first would take longer than reading the real ones.
    with torch.device("meta"):
        network = library.body.bodypose_model()
    network.load_state_dict(_fitted(network.state_dict(), tensors, file), assign=True)
    digest = hashlib.sha256(f"controlnet-aux {version('controlnet-aux')}\n".encode())
    with file.open("rb") as opened:
        digest.update(hashlib.file_digest(opened, "sha256").digest())
    return OpenPoseDetector(network.to(device).eval().requires_grad_(False), f"sha256:{digest.hexdigest()}")


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            # The library imports all of its detectors, each of which warns about another missing dependency.
            warnings.simplefilter("ignore")
            import controlnet_aux.open_pose as library
    except ImportError as error:
        raise ModelError(
            f"Photos need controlnet-aux, which cannot be imported ({error}): install darkroom[pose], if CMU's licence "
            "of the OpenPose detector, for non-commercial use only, fits; or unset DARKROOM_MODEL__POSE_DETECTOR_PATH."
        ) from error
    return library


def _weights_file(path: Path) -> Path:
    named = [path / f"{WEIGHTS_STEM}{suffix}" for suffix in (".safetensors", ".pth")] if path.is_dir() else [path]
    for file in named:
        if file.is_file():
            return file
    raise ModelError(
        f"There are no weights of the OpenPose body detector at {path}: fetch body_pose_model.pth of "
        "lllyasviel/ControlNet (annotator/ckpts), and set DARKROOM_MODEL__POSE_DETECTOR_PATH to it or to its folder."
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content = dict(torch.load(file, map_location="cpu", weights_only=True))
    # Each format fails in its own ways, and all of them mean that the file cannot be used.
    except Exception as error:
        raise ModelError(
            f"The pose detector's weights in {file} cannot be read ({_first_line(error)}): "
            "fetch body_pose_model.pth again, or give a safetensors file of the same tensors."
        ) from error
    return content


def _fitted(wanted: Mapping[str, torch.Tensor], tensors: Mapping[str, Any], file: Path) -> dict[str, torch.Tensor]:
    fitted = {}
    known = {name.partition(".")[2] for name in wanted} | set(wanted)
    unknown = sorted(name for name in tensors if name not in known)
    if unknown:
        raise ModelError(
            f"The pose detector's weights in {file} are of another network, it has no {unknown[0]} ({len(unknown)} "
            "in all). Fetch body_pose_model.pth; the hand, face and BODY_25 models are others."
        )
    for name, place in wanted.items():
        tensor = tensors.get(name.partition(".")[2], tensors.get(name))
        is_whole = isinstance(tensor, torch.Tensor) and tensor.shape == place.shape and tensor.is_floating_point()
        if not is_whole or not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"The pose detector's weights in {file} are not whole: {name} is missing, misshapen or not finite. "
                "Fetch body_pose_model.pth again; the hand and face models are others."
            )
        fitted[name] = tensor.float()
    return fitted


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
