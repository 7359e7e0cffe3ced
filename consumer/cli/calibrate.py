"""The command `darkroom calibrate`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darkroom.producer.terminal import config_option, fail, is_watched, settings_of

if TYPE_CHECKING:
    from darkroom.consumer.planner.calibrate import Calibrated, Size
    from darkroom.inference.planning.calibration import ReportBatch

SIZES_MAX = 64
"""Of one call: more than anybody's requests have, and each takes seconds."""


def _sizes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[Size, ...] | None:
    """`64x64,128x128`: widths and heights in pixels."""
    if text is None:
        return None
    sizes = []
    for one in text.split(","):
        size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", one.strip())
        if size is None:
            raise click.BadParameter(f"{one.strip()[:40]!r} is not a width and a height: write them like 1024x1024.")
        sizes.append((int(size[1]), int(size[2])))
    if len(sizes) > SIZES_MAX:
        raise click.BadParameter(f"{len(sizes)} sizes are asked for: at most {SIZES_MAX} in one call.")
    return tuple(dict.fromkeys(sizes))


@click.command(
    name="calibrate", epilog="Example: darkroom calibrate --sizes 1024x1024,768x1344 --max-rows 8 --out calibration"
)
@config_option
@click.option("--model-path", type=click.Path(path_type=Path), help="A diffusers folder; else the tiny model.")
@click.option("--controlnet-path", type=click.Path(path_type=Path), help="An OpenPose ControlNet's diffusers folder.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option(
    "--sizes", callback=_sizes, help="Widths and heights in pixels: 512x512,1024x1024. The model's native one."
)
@click.option(
    "--max-rows", type=click.IntRange(1, 256), help="The largest batch that is tried; DARKROOM_BATCH__MAX_ROWS."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Write profile, curves and plot here, too."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def calibrate(
    config: Path | None, sizes: tuple[Size, ...] | None, out: Path | None, as_json: bool, **flags: Any
) -> None:
    """Measure which batches pay on this device, at which sizes, and keep the profile for workers.

    Each size is measured in batches of 1, 2, 4 ... guided images, posed where the model takes poses. The cap is the
    smallest batch with 95% of the best throughput. A worker that starts on this device with this model finds the
    profile (DARKROOM_MODEL__PROFILE_DIR) and measures nothing.
    """
    from darkroom.consumer.planner.calibrate import calibrate_device
    from darkroom.inference.planning.profile_store import ProfileError
    from darkroom.inference.types import ModelError
    from darkroom.producer.logs import configure
    from darkroom.schemas.settings import LogSettings

    settings = settings_of(
        config,
        {
            "model.path": flags["model_path"],
            "model.controlnet_path": flags["controlnet_path"],
            "device": flags["device"],
            "batch.max_rows": flags["max_rows"],
        },
    )
    configure(LogSettings(level="warning", format="console"), worker="calibrate")
    try:
        with _shown() as progress:
            found = calibrate_device(settings, sizes, progress)
        files = found.write(out) if out is not None else ()
    except (ModelError, ProfileError, OSError) as error:
        fail(str(error))
    if as_json:
        click.echo(json.dumps(found.document() | {"files": [str(path) for path in files]}))
    else:
        _print(found)
        for path in files:
            click.echo(f"Written: {path}")


class _shown:  # noqa: N801 - reads as a word of the `with` statement
    """One line on a terminal that says what is being measured; nothing where nobody watches."""

    def __enter__(self) -> ReportBatch | None:
        if not is_watched():
            return None
        from rich.console import Console

        self._status = Console(stderr=True).status("loading the model")
        self._status.start()
        return lambda rows, most, ms: self._status.update(f"{rows} of up to {most} images: {ms:.1f} ms a step")

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_status"):
            self._status.stop()


def _print(found: Calibrated) -> None:
    key = found.profile.key
    measured_on = ", ".join(f"{name} {value}" for name, value in key.measured_on) or found.device
    click.echo(f"{found.model} ({key.dtype}) on {measured_on}")
    for one in found.sizes:
        click.echo(f"\n{one.width} x {one.height} pixels (latent {one.shape.latent_width} x {one.shape.latent_height})")
        click.echo("  rows  slots   UNet ms  ControlNet ms   rest ms   step ms   rows/s")
        for row in one.rows:
            mark = "" if row.rows != one.cap else "  <- cap" if row.measured else "  <- cap (between two measured)"
            click.echo(
                f"  {row.rows:4}  {row.slots:5}  {row.unet_ms:8.2f}  {row.controlnet_ms:13.2f}  {row.rest_ms:8.2f}"
                f"  {row.step_ms:8.2f}  {row.rows_per_second:7.1f}{mark}"
            )
        click.echo(f"  cap {one.cap}; a picture's decoding {one.shape.decode_ms:.1f} ms; {one.why_it_ended}")
    if found.kept is not None:
        click.echo(f"\nKept for workers: {found.kept}")
