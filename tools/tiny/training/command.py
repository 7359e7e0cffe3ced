"""The command `darkroom train-tiny`, also `python -m darkroom.tools.tiny`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from darkroom.inference.user_cache import user_cache_folder


@click.command(
    name="train-tiny", epilog="Example: darkroom train-tiny --budget-minutes 60; run it again to go on after a break."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where everything goes  [default: training/ in the user's cache]"
)
@click.option(
    "--shards", type=click.IntRange(2), default=80, show_default=True, help="How many times 500 pairs to draw."
)
@click.option("--minutes-vae", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True)
@click.option("--minutes-decoder", type=click.FloatRange(0, min_open=True), default=15.0, show_default=True)
@click.option("--minutes-denoiser", type=click.FloatRange(0, min_open=True), default=125.0, show_default=True)
@click.option(
    "--budget-minutes",
    type=click.FloatRange(0, min_open=True),
    help="Scale all three, and the number of shards, to about this total time.",
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option("--restart", is_flag=True, help="Start over instead of continuing from the checkpoints in --out.")
def train_tiny(
    *,
    out: Path | None,
    shards: int,
    minutes_vae: float,
    minutes_decoder: float,
    minutes_denoiser: float,
    budget_minutes: float | None,
    threads: int,
    restart: bool,
) -> None:
    """Train a tiny model that paints, from pictures that the command draws: three hours on two CPU cores by default.

    Draws pairs of pictures and skeletons, trains the VAE, then its decoder alone, then UNet, ControlNet and text
    encoders together. Killed at any time, it continues from its last checkpoint, at most three minutes back; given more
    minutes than before, it trains further.
    """
    from darkroom.tools.tiny.training.run import TrainingPlan, train

    # By default, drawing and encoding take 20 minutes on top of the training time.
    share = 1.0 if budget_minutes is None else min(1.0, budget_minutes / 180.0)
    plan = TrainingPlan(
        shards=max(2, round(shards * share)),
        vae_minutes=minutes_vae * share,
        decoder_minutes=minutes_decoder * share,
        denoiser_minutes=minutes_denoiser * share,
        threads=threads,
    )
    folder = out or user_cache_folder() / "training"
    if restart:
        _forget(folder)
    began = time.monotonic()
    try:
        train(folder, plan, lambda line: click.echo(f"{(time.monotonic() - began) / 60:6.1f} min  {line}", err=True))
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be used ({error}): name another folder with --out.") from error


def _forget(folder: Path) -> None:
    """Remove the checkpoints, so that training starts over. The drawn pairs stay, because they are the same every
    time."""
    for file in folder.glob("*.pt"):
        file.unlink()
