"""Control pictures of a request: each with its kind, its strength and the part of the steps in which it counts."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from darkroom.schemas.events.fields import ASKED, OrDefault
from darkroom.schemas.events.pose import PictureRef

ControlKind = Literal["openpose", "canny", "depth", "softedge", "lineart", "scribble", "normal", "segment", "tile"]
"""The content of a control picture, by the names that ControlNets are published under."""
KINDS: Final[tuple[str, ...]] = get_args(ControlKind)
OPENPOSE: Final = "openpose"
CONTROLS_MAX: Final = 4
"""Controls of one request, its pose among them: each runs a network of half the UNet's size at every step."""
CONTROL_SCALE_MAX: Final = 2.0


class Control(BaseModel):
    """A control picture, and how it is followed."""

    model_config = ASKED

    kind: ControlKind = Field(
        description="What the picture shows: openpose (a skeleton), canny, depth, softedge, lineart, scribble, normal, "
        "segment or tile. GET /v1/controls lists the kinds that this deployment follows."
    )
    image: PictureRef = Field(description="The control picture as the kind's annotator draws it; stretched to fit.")
    scale: OrDefault[Annotated[float, Field(ge=0.0, le=CONTROL_SCALE_MAX)]] = Field(
        default=1.0, description="How strongly the picture is followed, 0-2."
    )
    start: OrDefault[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default=0.0, description="The fraction of the steps at which the picture begins to count."
    )
    end: OrDefault[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default=1.0, description="The fraction of the steps at which the picture ceases to count; above start."
    )

    @model_validator(mode="after")
    def _window_is_open(self) -> Control:
        if self.start >= self.end:
            raise ValueError("start must be below end")
        return self
