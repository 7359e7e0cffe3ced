"""The command `pose`: what is found in a photo or read from a file of keypoints, before anything is sent.

It stands here because it joins the reader of files (`producer`) with the detector (`inference`). No torch, no settings:
the detector is BlazePose, as for workers without weights of another.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from PIL import Image

PHOTO_BYTES_MAX: Final = 16 * 1024 * 1024
"""The default of DARKROOM_LIMITS__POSE_PICTURE_BYTES_MAX: what a worker reads."""
DRAWN_PIXELS_MAX: Final = 16 * 1024 * 1024
"""48 MiB: as many pixels as a worker decodes by default."""
DRAWN_SIDE_PX: Final = 1024
"""Width and height of a drawing whose picture nobody has said the size of."""


@dataclass(frozen=True, slots=True)
class Seen:
    """People found in a file."""

    file: str
    kind: str
    """`photo` or `keypoints`."""
    width: int | None
    """In pixels, of the photo as it was looked at; None where keypoints come without."""
    height: int | None
    people: int
    found: list[dict[str, Any]]
    """As a completion's `found`, for a photo: with scores."""
    pose: dict[str, Any]
    """As a request's `pose`."""
    notes: tuple[str, ...]


@click.command(
    epilog="Examples: darkroom pose dancer.jpg --draw found.png    darkroom pose keypoints.json --size 1280x720    "
    "darkroom pose dancer.jpg --json > pose.json; darkroom send --prompt 'a dancer' --pose pose.json"
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--draw",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.png",
    help="Draw the skeletons: over the photo, or on black for keypoints.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object; its `pose` can be sent.")
@click.option(
    "--size",
    metavar="WIDTHxHEIGHT",
    help="The picture that the keypoints are pixels of, where the file does not say it; and the drawing's size.",
)
def pose(*, file: Path, draw: Path | None, as_json: bool, size: str | None) -> None:
    """Show the people in FILE: a photo (PNG, JPEG, WebP), or keypoints in JSON as `send --pose` reads them.

    Photos need the extra darkroom[photos]. Exit code 1 where nobody is found or FILE cannot be read.
    """
    from darkroom.producer.poses.files import size_of

    try:
        canvas = None if size is None else size_of(size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from error
    if draw is not None and draw.suffix.lower() != ".png":
        raise click.BadParameter("the drawing is a PNG: give it a name that ends in .png", param_hint="--draw")
    seen, ground = _look(file, canvas)
    if draw is not None:
        _draw(seen, ground, canvas, draw)
    if as_json:
        click.echo(json.dumps(asdict(seen)))
        return
    click.echo(_in_words(seen))
    for note in seen.notes:
        click.echo(f"{file}: {note}", err=True)


def _look(file: Path, canvas: tuple[float, float] | None) -> tuple[Seen, Image.Image | None]:
    """Return what is in a file, and the photo where it is one. Raises `click.ClickException`."""
    from darkroom.producer.client.request_files import RequestUnreadable
    from darkroom.producer.poses.documents import PoseJsonRefused
    from darkroom.producer.poses.files import pose_of
    from darkroom.producer.poses.refusals import refuse_bytes

    content = _content(file)
    try:
        refuse_bytes(content)
    except PoseJsonRefused as refused:
        raise click.ClickException(f"{file} {refused}") from refused
    if _is_picture(content):
        return _photo(file, content)
    try:
        read = pose_of(file, canvas)
    except RequestUnreadable as error:
        raise click.ClickException(str(error)) from error
    people = read.pose.get("people")
    if not isinstance(people, list):
        raise click.ClickException(
            f"{file} is a request's pose that names a picture, and holds no keypoints. Give the picture itself."
        )
    known = canvas or read.canvas
    width, height = (None, None) if known is None else (round(known[0]), round(known[1]))
    return Seen(str(file), "keypoints", width, height, len(people), [], read.pose, read.notes), None


def _photo(file: Path, content: bytes) -> tuple[Seen, Image.Image]:
    from darkroom.inference.pose.blazepose.detector import BlazePoseDetector, is_installed
    from darkroom.inference.pose.photo import NOBODY_FOUND, find_people
    from darkroom.inference.pose.picture import PictureLimits, decode_picture
    from darkroom.inference.types import ModelError, RenderFault

    if not is_installed():
        raise click.ClickException("Photos need darkroom[photos]: install it, or give a file of keypoints.")
    limits = PictureLimits()
    try:
        with _quiet():
            detector = BlazePoseDetector()
        people = find_people(content, detector, limits)
        photo = decode_picture(content, limits)
    except ModelError as error:
        raise click.ClickException(str(error)) from error
    except RenderFault as fault:
        raise click.ClickException(f"{file}: {fault.message}") from fault
    if people.pose is None:
        raise click.ClickException(f"{file}: {NOBODY_FOUND}")
    photo = photo.resize(detector.size(*photo.size))
    pose = {
        "people": [[None if point is None else list(point[:2]) for point in one.points] for one in people.found],
        "format": "coco18",
    }
    notes = () if people.warning is None else (people.warning,)
    found = [one.model_dump(mode="json") for one in people.found]
    return Seen(str(file), "photo", photo.width, photo.height, people.seen, found, pose, notes), photo


def _draw(seen: Seen, ground: Image.Image | None, canvas: tuple[float, float] | None, out: Path) -> None:
    """Write the skeletons as a PNG. Raises `click.ClickException`."""
    from PIL import Image

    from darkroom.inference.pose.skeleton import draw_figures
    from darkroom.schemas.events.pose import PeoplePose

    wanted = canvas or (seen.width or DRAWN_SIDE_PX, seen.height or DRAWN_SIDE_PX)
    width, height = ground.size if ground is not None else (round(wanted[0]), round(wanted[1]))
    if width * height > DRAWN_PIXELS_MAX:
        raise click.ClickException(
            f"{width} x {height} is too large to be drawn: give --size of at most {DRAWN_PIXELS_MAX} pixels."
        )
    figures = PeoplePose.model_validate(seen.pose).figures(width, height)
    drawing = draw_figures(figures, width=width, height=height)
    if ground is not None:
        dimmed = ground.point([level // 2 for level in range(256)] * 3)
        mask = drawing.convert("L").point([0] + [255] * 255)
        drawing = Image.composite(drawing, dimmed, mask)
    try:
        drawing.save(out, "PNG")
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written ({error.strerror}). Check its folder.") from error


def _in_words(seen: Seen) -> str:
    size = "" if seen.width is None else f" of {seen.width} x {seen.height} pixels"
    lines = [f"{seen.people} {'person' if seen.people == 1 else 'people'} in {seen.file} ({seen.kind}{size})"]
    for number, points in enumerate(seen.pose["people"], 1):
        present = [point for point in points if point is not None]
        left, right = min(point[0] for point in present), max(point[0] for point in present)
        top, bottom = min(point[1] for point in present), max(point[1] for point in present)
        line = f"{number}: {len(present)} of {len(points)} points{_details(seen.pose, number - 1)}, "
        line += f"x {left:.2f} to {right:.2f}, y {top:.2f} to {bottom:.2f}"
        lines.append(line + (f", score {seen.found[number - 1]['score']:.2f}" if seen.found else ""))
    return "\n".join(lines)


def _details(pose: dict[str, Any], index: int) -> str:
    """Return the words for a person's hands and face."""
    hands, face = (pose.get(name) or [] for name in ("hands", "face"))
    count = sum(hand is not None for hand in hands[index] or ()) if hands else 0
    words = {1: ", one hand", 2: ", both hands"}.get(count, "")
    return words + (", a face" if face and face[index] else "")


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(PHOTO_BYTES_MAX + 1)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read ({error.strerror}). Check its path.") from error


def _is_picture(content: bytes) -> bool:
    """Return whether this is a picture, be it one that is not read: its refusal knows the format's name."""
    from darkroom.schemas.events.pictures import foreign_format

    return content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")) or foreign_format(content) is not None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off stderr what LiteRT writes there when it starts ("Created TensorFlow Lite XNNPACK delegate"): below
    Python, and no setting of it says otherwise. Nothing else runs in this process meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
