"""The options of `send` that describe a request: derived from its fields, or written out for objects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

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


_HOW: Final = re.compile(r"(?P<rest>.+),(?P<name>scale|start|end)=(?P<value>[^,]*)", re.DOTALL)
"""The last part of a control's option that says how its picture is followed."""


@dataclass(frozen=True, slots=True)
class Posed:
    """The options of `send` that name a pose."""

    file: Path | None
    size: str | None
    photo: Path | None
    fit: str | None
    frames: bool


def poses_of(posed: Posed) -> list[tuple[int, dict[str, Any] | None]]:
    """Return the pose that the options name, None for none, or those of all frames that show somebody, numbered from 1.

    Notes go to stderr. Raise `click.UsageError` for options and files that name no pose.
    """
    from darkroom.producer.client.request_files import RequestUnreadable

    if posed.photo is not None and (posed.file is not None or posed.size or posed.fit or posed.frames):
        raise click.UsageError("Give either --photo or --pose, which may come with --pose-size, --fit and --frames.")
    if posed.file is None:
        for option, given in (("--pose-size", posed.size), ("--fit", posed.fit), ("--frames", posed.frames)):
            if given:
                raise click.UsageError(f"{option} belongs to the keypoints of --pose: give both.")
    try:
        return _poses(posed)
    except RequestUnreadable as error:
        raise click.UsageError(f"These options do not make a valid request: {error}") from error


def picture_option(name: str, options: Mapping[str, Any], **members: str) -> dict[str, Any] | None:
    """Return the field `name`, a picture and its other members, that the options describe; None for none.

    `members` are the options of the others by the member's name. Raise `click.UsageError`.
    """
    from darkroom.producer.client.request_files import RequestUnreadable
    from darkroom.producer.poses.files import picture_of

    values = {member: options[option.removeprefix("--").replace("-", "_")] for member, option in members.items()}
    given = {member: value for member, value in values.items() if value is not None}
    if options[name] is None:
        if given:
            raise click.UsageError(f"{members[next(iter(given))]} belongs to the picture of --{name}: give both.")
        return None
    try:
        return {"image": picture_of(options[name]), **given}
    except RequestUnreadable as error:
        raise click.UsageError(str(error)) from error


def _poses(posed: Posed) -> list[tuple[int, dict[str, Any] | None]]:
    from darkroom.producer.poses.files import fitted, frames_of, photo_of, pose_of, size_of
    from darkroom.producer.poses.keypoints import PoseRead

    if posed.photo is not None:
        return [(1, photo_of(posed.photo))]
    if posed.file is None:
        return [(1, None)]
    try:
        size = None if posed.size is None else size_of(posed.size)
    except ValueError as error:
        raise click.UsageError(f"--pose-size {posed.size}: {error}") from error
    if not posed.frames:
        read = pose_of(posed.file, size)
        for note in read.notes:
            click.echo(f"{posed.file}: {note}", err=True)
        return [(1, fitted(posed.file, read, posed.fit))]
    poses: list[tuple[int, dict[str, Any] | None]] = []
    for number, frame in frames_of(posed.file, size):
        notes = frame.notes if isinstance(frame, PoseRead) else (f"not sent: it {frame}",)
        for note in notes:
            click.echo(f"{posed.file}, frame {number}: {note}", err=True)
        if isinstance(frame, PoseRead):
            poses.append((number, fitted(posed.file, frame, posed.fit)))
    if not poses:
        raise click.UsageError(f"No frame of {posed.file} has a pose that can be sent.")
    return poses


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


def controls_of(options: Sequence[str]) -> dict[str, Any]:
    """Return the field of the controls that `--control KIND=FILE,scale=X` name. Raise `click.UsageError`."""
    controls = [_control_of(option) for option in options]
    return {"controls": controls} if controls else {}


def _control_of(option: str) -> dict[str, Any]:
    from darkroom.producer.client.request_files import RequestUnreadable
    from darkroom.producer.poses.files import picture_of
    from darkroom.schemas.events.controls import KINDS

    kind, _, rest = option.partition("=")
    if kind not in KINDS or not rest:
        raise click.UsageError(
            f"--control {option}: write KIND=FILE, as in canny=edges.png,scale=0.8; kinds are {', '.join(KINDS)}."
        )
    how: dict[str, float] = {}
    # From the right: a file's name may have commas itself.
    while (found := _HOW.fullmatch(rest)) is not None:
        try:
            how[found["name"]] = float(found["value"])
        except ValueError as error:
            raise click.UsageError(f"--control {option}: {found['name']} must be a number.") from error
        rest = found["rest"]
    try:
        return {"kind": kind, "image": picture_of(Path(rest)), **how}
    except RequestUnreadable as error:
        raise click.UsageError(f"--control {option}: {error}") from error


def labels_of(labels: tuple[str, ...]) -> dict[str, str] | None:
    """Return the labels that `--label NAME=VALUE` give. Raise `click.UsageError`."""
    pairs = [label.partition("=") for label in labels]
    if not all(separator for _, separator, _ in pairs):
        raise click.UsageError("A label is written NAME=VALUE.")
    return {name: value for name, _, value in pairs} or None
