"""The picture that a request starts from, and where on the way from noise to picture it comes in."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field

from darkroom.schemas.events.fields import ASKED, OrDefault
from darkroom.schemas.events.pose import Fit, PictureRef

STRENGTH_DEFAULT: Final = 0.6


class InitPicture(BaseModel):
    """A picture to start from in place of pure noise."""

    model_config = ASKED

    image: PictureRef = Field(description="The picture to start from.")
    strength: OrDefault[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default=STRENGTH_DEFAULT,
        description="How much of it is painted anew, above 0 and below 1: the share of the steps that are taken. 0 "
        "would give the picture back, and 1 is a request without init.",
    )
    fit: OrDefault[Fit] = Field(
        default="stretch",
        description="How a picture of another aspect comes to the output's size: stretch changes its proportions, "
        "contain shows all of it and repeats its edges around it, cover fills the output and cuts its sides off.",
    )


def steps_skipped(steps: int, strength: float) -> int:
    """Return how many of the first steps are left out: all but int(steps x strength), as diffusers' img2img does."""
    return max(0, steps - min(int(steps * strength), steps))
