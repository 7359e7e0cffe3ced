"""Makes the ControlNet's conditioning: the control picture, encoded by the ControlNet's own small encoder.

The encoder's output depends on the picture alone, so it is computed once per pose instead of once per step: the encoder
is taken out of the ControlNet (`darkroom.inference.sdxl.loading.components`) and run here. Each pose is drawn once per
size, each picture encoded once in whatever form it was sent, and each photo searched for people once. The ControlNet's
output at each step depends on the latents and cannot be cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image

from darkroom.inference.pose.annotation import read_control
from darkroom.inference.pose.control import ControlPicture, control_picture, picture_content, pose_digest
from darkroom.inference.pose.photo import PhotoPeople, PoseDetector, find_people, no_detector, nobody_found
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.types import CacheCounts
from darkroom.schemas.events.keypoints import PoseStyle
from darkroom.schemas.events.pose import PEOPLE_MAX, FoundPerson, PhotoPose, Pose

_PEOPLE_BYTES: Final = PEOPLE_MAX * 18 * 288
"""The most memory of a photo's keypoints: two numbers for drawing, three for the requester, and Python's overhead."""


class _PoseKey(NamedTuple):
    digest: str
    width: int
    height: int
    controlnet: int = 0


class ControlEncoder(NamedTuple):
    """The small encoder of a ControlNet, and what it expects."""

    network: Any
    is_bgr: bool
    """True if it expects the control picture's channels in reverse order."""
    style: PoseStyle = "openpose"
    """How keypoints are drawn for the ControlNet."""


class Conditioning(NamedTuple):
    """The ControlNet's input for a pose, with a warning and the people found for the requester."""

    embedding: torch.Tensor
    """(1, channels, latent height, latent width) in the model's dtype, on its device."""
    warning: str | None
    found: tuple[FoundPerson, ...] = ()
    """The people in a photo, the largest first."""


class PoseConditioner:
    """Turns poses and control pictures into conditioning embeddings. Belongs to the prepare lane.

    ControlNets are known by their places in `encoders`.
    """

    def __init__(
        self,
        encoders: Sequence[ControlEncoder],
        *,
        device: torch.device,
        dtype: torch.dtype,
        limits: PictureLimits,
        cache_bytes_max: int,
        detector: PoseDetector | None = None,
    ) -> None:
        """Make a conditioner. `cache_bytes_max` bounds all three caches together. Without a `detector` photos are
        refused."""
        self._detector = detector
        self._encoders = encoders
        self._device = device
        self._dtype = dtype
        self._limits = limits
        # Keypoints are small: by default this is for the people of four hundred photos.
        people_bytes_max = cache_bytes_max // 16
        # In fp16 an embedding of SDXL's ControlNet takes 3.3 times its picture's bytes.
        pictures_bytes_max = (cache_bytes_max - people_bytes_max) // 4
        self._people: ByteCache[str, PhotoPeople] = ByteCache(people_bytes_max, lambda _people: _PEOPLE_BYTES)
        self._pictures: ByteCache[_PoseKey, ControlPicture] = ByteCache(
            pictures_bytes_max, lambda made: 3 * made.picture.width * made.picture.height
        )
        self._embeddings: ByteCache[_PoseKey, torch.Tensor] = ByteCache(
            cache_bytes_max - people_bytes_max - pictures_bytes_max, lambda embedding: embedding.nbytes
        )

    def embed(self, pose: Pose, stored: bytes | None, *, width: int, height: int, controlnet: int = 0) -> Conditioning:
        """Return the conditioning of a pose for a ControlNet. `stored` is the content of a picture that the pose names.

        Raises `RenderFault` as `control_picture` and `find_people` do, and `pose_not_found` for a photo without people.
        """
        found_warning: str | None = None
        found: tuple[FoundPerson, ...] = ()
        if isinstance(pose, PhotoPose):
            people = self._people_of(pose, stored)
            if people.pose is None:
                raise nobody_found()
            pose, found_warning, found = people.pose, people.warning, people.found
        drawn = pose
        style = self._encoders[controlnet].style
        picture, drawn_warning = self._pictures.get_or_make(
            # Of skeletons that were drawn before, the style of the one ControlNet that follows poses.
            _PoseKey(pose_digest(drawn, stored), width, height),
            lambda: control_picture(drawn, stored, width=width, height=height, limits=self._limits, style=style),
        )
        return Conditioning(self._embedding(picture, controlnet), found_warning or drawn_warning, found)

    def embed_picture(
        self, kind: str, content: bytes, *, field: str, width: int, height: int, controlnet: int
    ) -> Conditioning:
        """Return the conditioning of a control picture for a ControlNet. Raises `RenderFault` as `read_control`."""
        picture, warning = self._pictures.get_or_make(
            _PoseKey(f"{kind} {hashlib.sha256(content).hexdigest()}", width, height),
            lambda: read_control(kind, content, field=field, width=width, height=height, limits=self._limits),
        )
        return Conditioning(self._embedding(picture, controlnet), warning)

    def counts(self) -> Mapping[str, CacheCounts]:
        """Return the counts of `photo` (people found), `pose` (drawn and decoded pictures) and `control` (their
        embeddings)."""
        return {
            "photo": self._people.counts(),
            "pose": self._pictures.counts(),
            "control": self._embeddings.counts(),
        }

    def reset(self) -> None:
        """Empty the caches and restart their counts."""
        self._people.reset()
        self._pictures.reset()
        self._embeddings.reset()

    def _people_of(self, photo: PhotoPose, stored: bytes | None) -> PhotoPeople:
        """Return the people in a photo, from the cache if possible. A photo without people is cached, too."""
        detector = self._detector
        if detector is None:
            raise no_detector()
        return self._people.get_or_make(
            pose_digest(photo, stored),
            lambda: find_people(picture_content(photo, stored), detector, self._limits),
        )

    def _embedding(self, picture: Image.Image, controlnet: int) -> torch.Tensor:
        content = hashlib.sha256(picture.tobytes()).hexdigest()
        key = _PoseKey(content, picture.width, picture.height, controlnet)
        return self._embeddings.get_or_make(key, lambda: self._encode(picture, self._encoders[controlnet]))

    def _encode(self, picture: Image.Image, encoder: ControlEncoder) -> torch.Tensor:
        levels = control_tensor(picture, encoder.is_bgr).to(self._device, self._dtype)
        encoded: torch.Tensor = encoder.network(levels)
        return encoded


def control_tensor(picture: Image.Image, is_bgr: bool) -> torch.Tensor:
    """Return the picture as (1, 3, height, width) fp32 in [0, 1], with its channels reversed for a BGR ControlNet."""
    levels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0).permute(2, 0, 1)[None]
    return levels.flip(1) if is_bgr else levels
