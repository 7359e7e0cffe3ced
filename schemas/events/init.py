"""The picture that a request starts from, and where on the way from noise to picture it comes in."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field

from darkroom.schemas.events.fields import ASKED, WHOLE, OrDefault
from darkroom.schemas.events.pose import Fit, PictureRef

STRENGTH_DEFAULT: Final = 0.6
BLUR_PX_MAX: Final = 128
MASK_UNDONE_BY: Final = frozenset({"heun", "unipc"})
"""Samplers whose calls go back to latents of the call before, from before what is outside of the mask was put back."""


class InitPicture(BaseModel):
    """A picture to start from in place of pure noise."""

    model_config = ASKED

    image: PictureRef = Field(description="The picture to start from.")
    strength: OrDefault[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default=STRENGTH_DEFAULT,
        description="How much of it is painted anew, above 0 and below 1: the share of the steps that are taken. 0 "
        "would give the picture back, and 1 is a request without init; with a mask it may be 1.",
    )
    fit: OrDefault[Fit] = Field(
        default="stretch",
        description="How a picture of another aspect comes to the output's size: stretch changes its proportions, "
        "contain shows all of it and repeats its edges around it, cover fills the output and cuts its sides off.",
    )


class InitMask(BaseModel):
    """The part of the picture to start from that is painted."""

    model_config = ASKED

    image: PictureRef = Field(
        description="A picture of the same aspect as that of init: white is painted, black stays as it is."
    )
    blur: OrDefault[Annotated[int, Field(ge=0, le=BLUR_PX_MAX), WHOLE]] = Field(
        default=0,
        description="Pixels over which what was painted fades into the picture, on the mask's inside; needs composite.",
    )
    composite: OrDefault[bool] = Field(
        default=True,
        description="true: pixels outside of the mask are those of the picture to start from, to the last bit. false: "
        "they went through the VAE, as diffusers gives them.",
    )


def steps_skipped(steps: int, strength: float) -> int:
    """Return how many of the first steps are left out: all but int(steps x strength), as diffusers' img2img does."""
    return max(0, steps - min(int(steps * strength), steps))
