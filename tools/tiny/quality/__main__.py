"""Measures how well a trained tiny model follows prompts and poses: `python -m darkroom.tools.tiny.quality`."""

from __future__ import annotations

from pathlib import Path

import click

_PLACES = 24
"""The number of pictures of each kind on the sheet."""


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    help="A folder with model/ and controlnet/, as `darkroom train-tiny` makes; the built-in model when left out.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("quality-out"), show_default=True)
@click.option("--count", type=click.IntRange(4), default=200, show_default=True, help="Pictures of one person.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def quality(model: Path | None, out: Path, count: int, threads: int) -> None:
    """Measure the tiny model on fresh captions and poses; print the table and write contact-sheet.png."""
    import torch

    from darkroom.inference.tiny.folder import trained_model
    from darkroom.tools.tiny.quality.painting import Painter
    from darkroom.tools.tiny.quality.sheet import contact_sheet
    from darkroom.tools.tiny.quality.table import measure

    folder = model or trained_model().path.parent
    if not (folder / "model" / "model_index.json").is_file():
        raise click.ClickException(
            f"{folder} holds no model: name what darkroom train-tiny made, or leave --model out."
        )
    torch.set_num_threads(threads)
    painter = Painter(folder / "model", folder / "controlnet", threads=threads)
    measured = measure(painter, count, lambda line: click.echo(line, err=True))
    out.mkdir(parents=True, exist_ok=True)
    first, others = min(_PLACES, count), measured.scenes[count:]
    scenes = [*measured.scenes[:first], *others]
    pictures = [*measured.pictures[:first], *measured.pictures[count:]]
    contact_sheet(scenes, pictures).save(out / "contact-sheet.png")
    (out / "table.md").write_text(measured.text() + "\n")
    click.echo(measured.text())
    click.echo(f"The pictures are in {out / 'contact-sheet.png'}.")


if __name__ == "__main__":
    quality()
