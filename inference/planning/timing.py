"""Names the parts of a device's work that can be timed alone: `calibration` asks for them, `profile` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol


class Part(Enum):
    """A part of the work."""

    UNET = "unet"
    """A forward of `count` slots."""
    CONTROLNET = "controlnet"
    """A forward of `count` slots."""
    REST = "rest"
    """All else of a step whose rows take `count` UNet slots, guided ones as far as they go."""
    DECODE = "decode"
    """The decoding of `count` pictures' latents."""


class Timed(Protocol):
    """The part of a device that can be timed. Only after `load`, and never beside `prepare`, `step` or `finish`."""

    def measured_on(self) -> Mapping[str, str]:
        """What times depend on beside `info`: the hardware's name, the libraries' versions and the like.

        Empty where measuring costs nothing, so that there is no use in keeping it.
        """

    def buckets(self, latent_height: int, latent_width: int) -> tuple[int, ...]:
        """Rising slot counts that forwards of this size are padded to; empty where they are not."""

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        """Seconds that a part takes undisturbed: the fastest of a few runs after a first one; 0 for what there is not.

        Padded where a step would be; on made-up inputs. Raises `RenderFault` (`BATCH_MEMORY`) where it does not fit,
        and then has freed what it took.
        """
