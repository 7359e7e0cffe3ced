"""Measures what encoding, marking and signing a picture cost: `python -m tests.bench.marks PICTURE...`.

Everything is measured beside the general encoder in one run, in turns, so that a busy machine slows all of it alike.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from darkroom.consumer.provenance.certificate import read_identity
from darkroom.consumer.provenance.manifest import Said, Writer
from darkroom.consumer.provenance.trial_chain import write_trial_chain
from darkroom.consumer.provenance.verifying import credentials_of
from darkroom.inference.sdxl.finish.pictures import encode_picture
from darkroom.inference.types import RenderedImage

SIDE_PX = 1024
ROUNDS = 15
TEXT = {"darkroom:model": "sdxl", "darkroom:request": '{"prompt":"a dancer"}', "parameters": "a dancer\nSteps: 22"}


def main(paths: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain = write_trial_chain(Path(folder))
        writer = Writer(read_identity(chain.chain.read_bytes(), chain.key))
    print("| picture | what | ms | KB |\n|---|---|---|---|")
    for name, picture in _pictures(paths):
        for what, (ms, size_bytes) in _measured(picture, writer).items():
            print(f"| {name} | {what} | {ms:.1f} | {size_bytes / 1000:.0f} |")


def _pictures(paths: Sequence[str]) -> list[tuple[str, Image.Image]]:
    size = (SIDE_PX, SIDE_PX)
    found = [
        (Path(path).name, Image.open(path).convert("RGB").resize(size, Image.Resampling.LANCZOS)) for path in paths
    ]
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    return [*found, ("noise", Image.fromarray(noise))]


def _measured(picture: Image.Image, writer: Writer) -> dict[str, tuple[float, int]]:
    """Return the median of the processor's milliseconds and the size in bytes, by what was done."""

    def encoded(image_format: str) -> RenderedImage:
        return encode_picture(picture, image_format=image_format, quality=90, seed=1, text=TEXT)

    def pillow() -> bytes:
        content = io.BytesIO()
        picture.save(content, "PNG", compress_level=1)
        return content.getvalue()

    png, jpeg, webp = (encoded(image_format) for image_format in ("png", "jpeg", "webp"))
    said = Said("sdxl", "sha256:0")
    signed = writer.embed(png.content, png.content_type, said).content
    tasks: dict[str, Callable[[], bytes]] = {
        "PNG by Pillow, level 1": pillow,
        "PNG as Darkroom writes it, with its marks": lambda: encoded("png").content,
        "JPEG, quality 90, with its marks": lambda: encoded("jpeg").content,
        "WebP, quality 90, with its marks": lambda: encoded("webp").content,
        "signing the PNG": lambda: writer.embed(png.content, png.content_type, said).content,
        "signing the JPEG": lambda: writer.embed(jpeg.content, jpeg.content_type, said).content,
        "signing the WebP": lambda: writer.embed(webp.content, webp.content_type, said).content,
        "verifying the PNG": lambda: signed if credentials_of(signed).signer else b"",
    }
    seconds: dict[str, list[float]] = {what: [] for what in tasks}
    sizes: dict[str, int] = {}
    for _ in range(ROUNDS):
        for what, task in tasks.items():
            began = time.process_time()
            sizes[what] = len(task())
            seconds[what].append(time.process_time() - began)
    return {what: (statistics.median(took) * 1000, sizes[what]) for what, took in seconds.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
