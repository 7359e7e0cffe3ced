"""The commands `send` and `cancel`: requests from options, a file or a pipe, and cancellations, into Kafka."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import click

from darkroom.producer.cli.completion_lines import in_words
from darkroom.producer.cli.request_options import (
    Posed,
    adapters_of,
    controls_of,
    field_options,
    labels_of,
    picture_option,
    poses_of,
)
from darkroom.producer.terminal import (
    config_option,
    fail,
    is_for_people,
    is_watched,
    run,
    settings_of,
    telling_of_outages,
)
from darkroom.schemas.rights import Role

if TYPE_CHECKING:
    from darkroom.producer.client.client import Client
    from darkroom.producer.client.request_files import Line
    from darkroom.schemas.events.completion import Completion
    from darkroom.schemas.events.request import GenerationRequest
    from darkroom.schemas.settings import Settings

PORTION: Final = 500
"""The number of requests that are sent before their ids are printed."""
REPEAT_MAX: Final = 100_000
PROBLEMS_SHOWN_MAX: Final = 20
UNFINISHED_SHOWN_MAX: Final = 10
"""Requests that are named when somebody stops waiting for them."""
STDIN_MEMORY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Standard input is read twice, so it is kept: in memory up to this size, above it in a temporary file."""


class _Send(click.Command):
    """Takes the options of request fields from the fields, and names the counterpart of another tool's option."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the argument, the options of request fields, and the other options."""
        argument, *others = super().get_params(ctx)
        return [argument, *field_options().values(), *others]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from darkroom.schemas.events.unsupported import remedy_of

            remedy = remedy_of(error.option_name)
            if remedy is None:
                raise
            for parameter in self.get_params(ctx):
                remedy = remedy.replace(f"`{parameter.name}`", parameter.opts[0])
            raise click.UsageError(f"No such option: {error.option_name}: {remedy}.", ctx) from error


@click.command(
    cls=_Send,
    epilog="Examples: darkroom send --prompt 'a dancer on a stage' --pose pose.json --wait    "
    "darkroom send --wait requests.jsonl    generate-requests | darkroom send -",
)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--pose",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keypoints as JSON (a request's pose, or the output of OpenPose, COCO, MMPose, Ultralytics or MediaPipe), or "
    "an OpenPose skeleton as PNG, JPEG or WebP of at most 512 KiB.",
)
@click.option(
    "--pose-size",
    metavar="WIDTHxHEIGHT",
    help="The size of the picture whose pixels the keypoints count, if the file does not say it.",
)
@click.option(
    "--fit",
    type=click.Choice(["stretch", "contain", "cover"]),
    help="How keypoints of a picture of another aspect come to lie on the output: stretch (the default) changes their "
    "proportions, contain and cover keep them.",
)
@click.option(
    "--frames",
    is_flag=True,
    help="Send one request for each frame or picture of the --pose file that shows somebody.",
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A photo of at most 512 KiB to take the pose from; needs a worker with a pose detector.",
)
@click.option(
    "--control-start", type=float, metavar="X", help="The fraction of the steps at which the pose starts to apply."
)
@click.option(
    "--control-end", type=float, metavar="X", help="The fraction of the steps at which the pose stops applying."
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="KIND=FILE[,scale=X][,start=X][,end=X]",
    help="A control picture of at most 512 KiB that a ControlNet of the workers follows, such as canny=edges.png; "
    "scale is 0 to 2, start and end are fractions of the steps. Repeatable, up to 4 times.",
)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A picture of at most 512 KiB to start from, as PNG, JPEG or WebP.",
)
@click.option(
    "--strength", type=float, metavar="X", help="How much of the --init picture is painted anew, between 0 and 1."
)
@click.option(
    "--init-fit",
    type=click.Choice(["stretch", "contain", "cover"]),
    help="How an --init picture of another aspect comes to the output's size; stretch is the default.",
)
@click.option(
    "--mask",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A picture of at most 512 KiB whose white part of the --init picture is painted; the rest stays.",
)
@click.option(
    "--mask-blur", type=int, metavar="PIXELS", help="Over how many pixels inside of --mask the painted part fades out."
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME[=WEIGHT[:TEXT_WEIGHT]]",
    help="A LoRA that the workers have; its weight is -2 to 2, 1 by default, and may differ in the text encoders. "
    "Repeatable, up to 4 times.",
)
@click.option("--format", "image_format", type=click.Choice(["png", "webp", "jpeg"]), help="png is the default.")
@click.option("--quality", type=int, metavar="N", help="Quality of WebP and JPEG, 1-100.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Returned in the completion; repeatable.")
@click.option("--request-id", metavar="ID", help="The request's id; a new one by default.")
@click.option(
    "--repeat",
    type=click.IntRange(1, REPEAT_MAX),
    default=1,
    metavar="REQUESTS",
    help="Send this many requests, each with its own id.",
)
@click.option("--skip-invalid", is_flag=True, help="Send a file's valid lines even if others are invalid.")
@click.option(
    "--wait",
    is_flag=True,
    help="Show progress, and print the completions as they come: a line each on a terminal, else as JSON lines.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 7 * 86_400),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each request instead of its id.")
@config_option
def send(
    *,
    file: str | None,
    pose: Path | None,
    pose_size: str | None,
    fit: str | None,
    frames: bool,
    photo: Path | None,
    labels: tuple[str, ...],
    request_id: str | None,
    repeat: int,
    skip_invalid: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
    config: Path | None,
    **options: Any,
) -> None:
    """Publish requests and print their ids: one made of the options, or those of FILE.

    FILE has one request a line, as JSON; - is standard input. With --wait the exit code is 0 only if all succeeded.
    """
    if (file is None) == (options["prompt"] is None):
        raise click.UsageError("Give either --prompt or a FILE of requests.")
    if file is None:
        settings = settings_of(config)
        posed = Posed(pose, pose_size, photo, fit, frames=frames)
        if frames and repeat != 1:
            raise click.UsageError("--frames sends a request for each frame, and --repeat several of one: give one.")
        made = {
            number: _from_options(options, one, labels, request_id, settings, progress=wait and is_watched())
            for number, one in poses_of(posed)
        }
        named = request_id is not None
        requests: Iterator[GenerationRequest] = _of_frames(made, named) if frames else _repeated(made[1], repeat, named)
        sending = _send(settings, requests, wait=wait, timeout_s=timeout_s, as_json=as_json)
        run(sending, settings=settings, role=Role.SEND_WAIT if wait else Role.SEND)
        return
    given = [name for name, value in options.items() if value not in (None, ())]
    if given or pose or pose_size or fit or frames or photo or labels or request_id or repeat != 1:
        raise click.UsageError("With a FILE the requests say what to paint: no options but --wait and the output's.")
    settings = settings_of(config)
    with _opened(file) as content:
        requests = _from_file(file, content, settings, skip_invalid=skip_invalid)
        sending = _send(settings, requests, wait=wait, timeout_s=timeout_s, as_json=as_json)
        run(sending, settings=settings, role=Role.SEND_WAIT if wait else Role.SEND)


@click.command(epilog="Example: darkroom cancel hello-1 --reason 'no longer needed'")
@click.argument("request_id")
@click.option("--tenant", default="default", show_default=True, metavar="NAME", help="The tenant it was sent for.")
@click.option("--reason", metavar="TEXT", help="The reason, for the completion's message.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@config_option
def cancel(request_id: str, tenant: str, reason: str | None, as_json: bool, config: Path | None) -> None:
    """Cancel the request REQUEST_ID, even one that is still to be sent.

    A finished request stays as it is; one that is being rendered ends as cancelled.
    """
    from darkroom.schemas.names import is_identity

    if not is_identity(request_id) or not is_identity(tenant):
        raise click.UsageError(
            "A request id and a tenant have 1-128 characters of A-Za-z0-9._-, and do not start with a dot."
        )
    if reason is not None and len(reason) > 500:
        raise click.UsageError("A reason has at most 500 characters.")
    settings = settings_of(config)
    run(_cancel(settings, request_id, tenant, reason), settings=settings, role=Role.CANCEL)
    done = {"request_id": request_id, "tenant": tenant, "reason": reason}
    click.echo(json.dumps(done) if as_json else f"The cancellation of {tenant}/{request_id} is published.")


def _from_options(
    options: dict[str, Any],
    pose: dict[str, Any] | None,
    labels: tuple[str, ...],
    request_id: str | None,
    settings: Settings,
    *,
    progress: bool,
) -> GenerationRequest:
    """Return the request that the options describe. Raises `click.UsageError` that names a wrong field."""
    from darkroom.producer.client.request_files import RequestUnreadable, new_request_id, request_of
    from darkroom.schemas.events.samplers import in_our_names

    output = {"format": options["image_format"], "quality": options["quality"]}
    try:
        asked = in_our_names(
            {
                "request_id": request_id or new_request_id(),
                **{name: options[name] for name in field_options()},
                "output": {name: value for name, value in output.items() if value is not None} or None,
                "pose": pose,
                "init": picture_option("init", options, strength="--strength", fit="--init-fit"),
                "mask": picture_option("mask", options, blur="--mask-blur"),
                **adapters_of(options["adapters"]),
                **controls_of(options["controls"]),
                "labels": labels_of(labels),
                "progress": "steps" if progress else None,
            }
        )
        return request_of(asked, bytes_max=settings.limits.request_bytes_max)
    except RequestUnreadable as error:
        raise click.UsageError(f"These options do not make a valid request: {error}") from error


def _of_frames(requests: Mapping[int, GenerationRequest], named: bool) -> Iterator[GenerationRequest]:
    """Yield the requests of frames, with the frame's number behind an id that was given."""
    for number, request in requests.items():
        yield request.model_copy(update={"request_id": f"{request.request_id}-{number}"}) if named else request


def _repeated(request: GenerationRequest, repeat: int, named: bool) -> Iterator[GenerationRequest]:
    """Yield `repeat` requests with different ids, and so, unless a seed is given, with different pictures."""
    from darkroom.producer.client.request_files import new_request_id

    if repeat == 1:
        yield request
        return
    for number in range(1, repeat + 1):
        name = f"{request.request_id}-{number}" if named else new_request_id()
        yield request.model_copy(update={"request_id": name})


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """Open the file, or a copy of standard input that can be read twice."""
    import shutil
    import sys
    import tempfile

    if file != "-":
        with Path(file).open("rb") as content:
            yield content
        return
    with tempfile.SpooledTemporaryFile(max_size=STDIN_MEMORY_BYTES_MAX) as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.seek(0)
        yield kept  # type: ignore[misc]  # it has all of BinaryIO's methods, but not its type


def _from_file(file: str, content: BinaryIO, settings: Settings, *, skip_invalid: bool) -> Iterator[GenerationRequest]:
    """Return the valid requests of a file, after a check of all its lines.

    Ends the command if a line is invalid, unless invalid ones are to be skipped, and if no line is valid.
    """
    from darkroom.producer.client.request_files import is_one_text, lines

    name = "<stdin>" if file == "-" else file
    bytes_max = settings.limits.request_bytes_max
    counts = _checked(lines(name, content, bytes_max=bytes_max))
    if counts.invalid and not counts.valid and is_one_text(content, bytes_max=bytes_max):
        fail(
            f"{name} is one JSON text over several lines, but each line has to be a request, so nothing was sent. "
            f"Convert it with `jq -c . {name}`, or an array with `jq -c '.[]' {name}`."
        )
    if counts.invalid and not skip_invalid:
        fail(
            f"Invalid lines: {counts.invalid} of {counts.valid + counts.invalid}, so nothing was sent. Correct "
            "them, or use --skip-invalid."
        )
    if not counts.valid:
        fail(
            f"{name} has no request. Write a JSON object per line; `darkroom schemas --only request` prints the schema."
        )
    content.seek(0)
    return (line.request for line in lines(name, content, bytes_max=bytes_max) if line.request is not None)


class _Counts(NamedTuple):
    valid: int
    invalid: int


def _checked(lines: Iterator[Line]) -> _Counts:
    """Report each invalid line on stderr. Return the numbers of valid and invalid lines."""
    valid = invalid = told = 0
    for line in lines:
        if line.problem is None:
            valid += 1
        else:
            invalid += 1
        wrong = [line.problem] if line.problem else [f"unknown field ignored: {name}" for name in line.unknown_fields]
        for text in wrong[: PROBLEMS_SHOWN_MAX - told]:
            click.echo(f"{line.place}: {text}", err=True)
            told += 1
    return _Counts(valid, invalid)


async def _send(
    settings: Settings, requests: Iterator[GenerationRequest], *, wait: bool, timeout_s: float, as_json: bool
) -> None:
    """Publish the requests, and print the ids of those that Kafka accepted, or wait and print their completions."""
    from darkroom.producer.client.client import Client, SendInterrupted
    from darkroom.producer.kafka.topics import ensure_topics

    await ensure_topics(settings)
    sent: set[tuple[str, str]] = set()
    async with Client(settings, follow=wait) as client:
        while portion := list(islice(requests, PORTION)):
            try:
                accepted = await client.send(portion)
            except SendInterrupted as error:
                _print_ids(portion, error.accepted_ids, as_json=as_json)
                raise
            if wait:
                sent |= {(request.tenant, request.request_id) for request in portion}
            else:
                _print_ids(portion, accepted, as_json=as_json)
        if wait:
            await _wait(client, sent, timeout_s, as_json=as_json)


def _tell_of_unfinished(left: Collection[tuple[str, str]]) -> None:
    """Name on stderr the requests that nobody waits for any more, and how to find and cancel them."""
    shown = sorted(left)[:UNFINISHED_SHOWN_MAX]
    more = f" and {len(left) - len(shown)} more" if len(left) > len(shown) else ""
    names = ", ".join(f"{tenant}/{request_id}" for tenant, request_id in shown)
    click.echo(
        f"{len(left)} requests go on without you: {names}{more}. `darkroom watch --from-beginning` shows their ends, "
        "`darkroom cancel ID` takes one back.",
        err=True,
    )


def _print_ids(portion: Sequence[GenerationRequest], accepted: Collection[str], *, as_json: bool) -> None:
    for request in portion:
        if request.request_id in accepted:
            one = {"request_id": request.request_id, "tenant": request.tenant}
            click.echo(json.dumps(one) if as_json else request.request_id)


async def _wait(client: Client, sent: set[tuple[str, str]], timeout_s: float, *, as_json: bool) -> None:
    """Print completions as they arrive. Ends the command with an error unless all requests succeeded."""
    from darkroom.producer.client.following import follow
    from darkroom.schemas.events.completion import Status

    unsuccessful = 0
    for_people = is_for_people(as_json=as_json)
    left = set(sent)

    def on_completion(completion: Completion) -> None:
        nonlocal unsuccessful
        unsuccessful += completion.status is not Status.SUCCEEDED
        left.discard((completion.tenant, completion.request_id))
        click.echo(in_words(completion) if for_people else completion.model_dump_json())

    try:
        async with telling_of_outages():
            missing = await follow(client, sent, on_completion, timeout_s=timeout_s, watched=is_watched())
    except BaseException:  # Ctrl-C, or Kafka is away: they go on all the same
        _tell_of_unfinished(left)
        raise
    if missing:
        first = "/".join(min(missing))
        fail(
            f"{len(missing)} of {len(sent)} requests, such as {first}, have no completion after {timeout_s:g} s. They "
            "may still get one: check that a worker runs, and look with `darkroom watch --from-beginning`."
        )
    if unsuccessful:
        fail(f"{unsuccessful} of {len(sent)} requests did not succeed. Their completions say why.")


async def _cancel(settings: Settings, request_id: str, tenant: str, reason: str | None) -> None:
    from darkroom.producer.client.client import Client
    from darkroom.producer.kafka.topics import ensure_topics

    await ensure_topics(settings)
    async with Client(settings, follow=False) as client:
        await client.cancel(request_id, tenant=tenant, reason=reason)
