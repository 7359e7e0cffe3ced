"""The options of `send` that describe a request: derived from its fields, or written out for objects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click


@cache
def field_options() -> dict[str, click.Option]:
    """Return the options of the request fields that declare one, by the field's name; those of the identity last.

    The event's model is imported here and not with the module, so that other commands start without it.
    """
    from darkroom.schemas.events.fields import facts_of, value_type
    from darkroom.schemas.events.request import GenerationRequest

    declared = sorted(facts_of(GenerationRequest).items(), key=lambda one: one[1].decides == "identity")
    options = {}
    for name, facts in declared:
        if facts.option is not None:
            field = GenerationRequest.model_fields[name]
            options[name] = click.Option(
                [f"--{name.replace('_', '-')}"],
                type=_click_type(value_type(field.annotation), is_open=facts.option.metavar is not None),
                metavar=facts.option.metavar,
                help=facts.option.help or field.description,
            )
    return options


def _click_type(kind: Any, *, is_open: bool) -> Any:
    """Return click's type of an option. The event's model reads the text of whatever is no choice and no number.

    `is_open`: further texts than those of a closed list are understood.
    """
    if get_origin(kind) is Literal and not is_open:
        return click.Choice(get_args(kind))
    return kind if kind in (int, float) else str


def pose_of(file: Path | None, size: str | None, photo: Path | None) -> dict[str, Any] | None:
    """Return the pose that the options name. Raise `click.UsageError`, and `RequestUnreadable` for their files."""
    from darkroom.producer.poses.files import photo_of, size_of
    from darkroom.producer.poses.files import pose_of as pose_in

    if photo is not None:
        if file is not None or size is not None:
            raise click.UsageError("Give either --photo or --pose, which may come with --pose-size.")
        return photo_of(photo)
    if file is None:
        if size is not None:
            raise click.UsageError("--pose-size belongs to the keypoints of --pose: give both.")
        return None
    try:
        pixels = None if size is None else size_of(size)
    except ValueError as error:
        raise click.UsageError(f"--pose-size {size}: {error}") from error
    read = pose_in(file, pixels)
    for note in read.notes:
        click.echo(f"{file}: {note}", err=True)
    return read.pose


def adapters_of(options: Sequence[str]) -> dict[str, Any]:
    """Return the field of the adapters that `--adapter NAME=WEIGHT:TEXT_WEIGHT` name. Raise `click.UsageError`."""
    adapters = [_adapter_of(option) for option in options]
    if not adapters:
        return {}
    return {"adapter": adapters[0]} if len(adapters) == 1 else {"adapters": adapters}


def _adapter_of(option: str) -> dict[str, Any]:
    # From the right: a name is what a file is called, and may have such a sign itself.
    name, separator, weights = option.rpartition("=")
    if not separator:
        return {"name": option}
    weight, separator, text_weight = weights.partition(":")
    try:
        adapter = {"name": name, "weight": float(weight)}
        return {**adapter, "text_weight": float(text_weight)} if separator else adapter
    except ValueError as error:
        raise click.UsageError(
            f"--adapter {option}: what follows = must be a number, or two as in ink=0.8:0.5."
        ) from error


def labels_of(labels: tuple[str, ...]) -> dict[str, str] | None:
    """Return the labels that `--label NAME=VALUE` give. Raise `click.UsageError`."""
    pairs = [label.partition("=") for label in labels]
    if not all(separator for _, separator, _ in pairs):
        raise click.UsageError("A label is written NAME=VALUE.")
    return {name: value for name, _, value in pairs} or None
