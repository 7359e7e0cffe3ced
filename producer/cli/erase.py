"""The command `erase`: deletes the pictures, uploads and texts of requests, or of all requests of a tenant."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from darkroom.producer.terminal import config_option, fail, run, settings_of
from darkroom.schemas.names import DEFAULT_TENANT, is_identity

if TYPE_CHECKING:
    from darkroom.producer.outcomes.erasing import Erased, Erasing
    from darkroom.schemas.settings import Settings

BY: Final = "darkroom erase"
"""What the tombstone says of who erased."""


@click.command(
    epilog="Example: darkroom erase order-17 --tenant studio; darkroom erase --all --tenant studio --older-than 7 --yes"
)
@click.argument("request_ids", metavar="[REQUEST_ID]...", nargs=-1)
@click.option("--tenant", metavar="NAME", help=f"The tenant of the requests; {DEFAULT_TENANT} if not given.")
@click.option("--all", "is_all", is_flag=True, help="All requests of the tenant, which has to be named.")
@click.option(
    "--older-than",
    "older_than_days",
    type=click.FloatRange(min=0, min_open=True, max=36_500),
    metavar="DAYS",
    help="With --all: only requests that ended so long ago. Run it every day for a retention of the tenant's own.",
)
@click.option("--yes", is_flag=True, help="Do not ask before erasing all requests of a tenant.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per request.")
@config_option
@click.pass_context
def erase(
    context: click.Context,
    *,
    request_ids: tuple[str, ...],
    tenant: str | None,
    is_all: bool,
    older_than_days: float | None,
    yes: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """Delete the pictures, uploads and texts of requests from the bucket. Nothing brings them back.

    What remains of a request is that it was erased: its id is never painted again, and `darkroom audit` expects none of
    its pictures. A request that is under way, or still to come, ends as erased. An erasure that was interrupted is
    finished by repeating it. Kafka's topics keep requests and completions until their retention passes; where the
    bucket keeps old versions, its lifecycle rules remove those.

    Exit code 1 if a request could not be erased.
    """
    if is_all == bool(request_ids):
        raise click.UsageError("Name request ids, or give --all with --tenant.")
    if older_than_days is not None and not is_all:
        raise click.UsageError("--older-than goes with --all: a request that is named is erased whatever its age.")
    if is_all and tenant is None:
        raise click.UsageError("--all needs --tenant: it erases the requests of one tenant.")
    tenant = tenant or DEFAULT_TENANT
    for text, what in ((tenant, "tenant"), *((one, "request id") for one in request_ids)):
        if not is_identity(text):
            raise click.UsageError(
                f"{text!r} is no {what}: 1-128 characters of A-Za-z0-9._-, and not a dot at the beginning."
            )
    settings = settings_of(config)
    if is_all and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Give --yes to erase all requests of a tenant where nobody can be asked.")
        which = "all pictures and texts" if older_than_days is None else f"what ended {older_than_days:g} days ago"
        click.confirm(f"Erase {which} of the tenant {tenant} in {settings.s3.bucket}?", abort=True)
    before = None if older_than_days is None else datetime.now(UTC) - timedelta(days=older_than_days)
    failures = run(_erase(settings, tenant, request_ids, before=before, as_json=as_json))
    click.echo(_kept(settings), err=True)
    if failures:
        click.echo(f"{failures} were not erased: see above.", err=True)
        context.exit(1)


async def _erase(
    settings: Settings, tenant: str, request_ids: tuple[str, ...], *, before: datetime | None, as_json: bool
) -> int:
    """Erase the requests, or all of the tenant that ended `before` if none is named. Return how many were left."""
    from darkroom.producer.outcomes.erasing import Erasing
    from darkroom.producer.store.s3_objects import MinioObjects

    failures = 0
    async with MinioObjects(settings.s3) as objects:
        if not await objects.is_there():
            fail(f"There is no bucket {objects.bucket}. Check DARKROOM_S3__BUCKET.")
        erasing = Erasing(objects)
        wanted = set(request_ids)
        for request_id in request_ids:
            failures += not await _erase_one(erasing, tenant, request_id, as_json=as_json)
        if not request_ids:
            async for request_id, is_ours in erasing.requests_of(tenant):
                if before is not None and not await erasing.is_due(tenant, request_id, before=before):
                    continue
                if is_ours:
                    wanted.add(request_id)
                    failures += not await _erase_one(erasing, tenant, request_id, as_json=as_json)
                else:
                    click.echo(
                        f"{tenant}/{request_id} was left as it is: nothing there shows that Darkroom made it.", err=True
                    )
        is_whole = not request_ids and before is None
        letters = await erasing.delete_letters(
            lambda identity: identity[0] == tenant and (is_whole or identity[1] in wanted)
        )
        if letters:
            click.echo(f"{letters} stored dead letters were deleted as well.", err=True)
    return failures


async def _erase_one(erasing: Erasing, tenant: str, request_id: str, *, as_json: bool) -> bool:
    """Erase one request and print what became of it. Return False where it was left as it is."""
    from darkroom.producer.outcomes.erasing import NotErased

    try:
        erased = await erasing.erase(tenant, request_id, by=BY, now=datetime.now(UTC))
    except NotErased as error:
        click.echo(str(error), err=True)
        return False
    click.echo(json.dumps(_facts(erased)) if as_json else _line(erased))
    return True


def _facts(erased: Erased) -> dict[str, object]:
    return {
        "tenant": erased.tenant,
        "request_id": erased.request_id,
        "was": None if erased.was is None else erased.was.value,
        "deleted": erased.deleted,
        "left": list(erased.left),
    }


def _line(erased: Erased) -> str:
    was = "not decided yet" if erased.was is None else erased.was.value
    left = f", {len(erased.left)} that are not Darkroom's left" if erased.left else ""
    return f"{erased.tenant}/{erased.request_id}  {erased.deleted} objects deleted{left}; it was {was}"


def _kept(settings: Settings) -> str:
    """Return what an erasure does not reach, in the deployment's own figures."""
    topics = settings.topics
    kept = (
        (topics.requests, topics.requests_retention_hours),
        (topics.completions, topics.completions_retention_hours),
        (topics.dead_letters, topics.dead_letters_retention_hours),
    )
    said = ", ".join(f"{name} for {hours / 24:g} days" for name, hours in kept)
    return f"Kafka keeps what was published until the topics' own retention passes; as Darkroom makes them: {said}."
