"""The command `darkroom init`: everything that workers expect to be there, made before the first one runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darkroom.producer.terminal import config_option, run, settings_of
from darkroom.schemas.rights import Role

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings


@click.command(name="init", epilog="Example: darkroom init")
@config_option
@click.option(
    "--grow-partitions",
    is_flag=True,
    help="Raise the request topic's partitions to DARKROOM_TOPICS__REQUESTS_PARTITIONS. There is no way back.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def init(config: Path | None, grow_partitions: bool, as_json: bool) -> None:
    """Make the topics and the bucket with its lifecycle rule, and commit initial offsets while no worker runs.

    Whatever is there already is left as it is, so this can be repeated; other people's lifecycle rules are kept to the
    byte. Repeated daily, it also keeps the offsets of a fleet that stays at zero workers from expiring.
    """
    settings = settings_of(config)
    role = Role.INIT_GROW if grow_partitions else Role.INIT
    done = run(_init(settings, grow_partitions=grow_partitions), settings=settings, role=role)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"topics   {_listed(done['topics_made'])} made; {done['partitions']} partitions of requests")
    where = f"{done['bucket']}/{done['prefix']}" if done["prefix"] else done["bucket"]
    click.echo(f"bucket   {where} {'made' if done['bucket_made'] else 'is there'}; conditional puts hold in a race")
    click.echo(f"         {done['retention']['says']}")
    if done["retention"]["remedy"]:
        click.echo(f"         {done['retention']['remedy']}")
    for what, places in done["offsets"].items():
        click.echo(f"offsets  {what}: {_listed(places)}")
    for one in done["differences"]:
        click.echo(f"Warning: {one['says']}.\n -> {one['remedy']}", err=True)


async def _init(settings: Settings, *, grow_partitions: bool) -> dict[str, Any]:
    from darkroom.consumer.kafka.initial_offsets import commit_offsets
    from darkroom.producer.kafka.reader import partitions_of
    from darkroom.producer.kafka.topic_checks import compare_topics
    from darkroom.producer.kafka.topics import ensure_topics, grow_requests
    from darkroom.producer.store.s3_objects import MinioObjects

    made = await ensure_topics(settings)
    if grow_partitions:
        await grow_requests(settings)
    objects = MinioObjects(settings.s3)
    try:
        bucket = await objects.ready_bucket(settings.s3.retention_days, race=True)
    finally:
        objects.close()
    offsets = await commit_offsets(settings)
    _, found = await compare_topics(settings)
    return {
        "topics_made": list(made),
        "partitions": len(await partitions_of(settings.kafka, [settings.topics.requests])),
        "bucket": settings.s3.bucket,
        "prefix": settings.s3.prefix,
        "bucket_made": bucket.made,
        "retention": bucket.retention._asdict(),
        "offsets": {
            "committed": list(offsets.committed),
            "refreshed": list(offsets.refreshed),
            "left": list(offsets.left),
        },
        "differences": [{"subject": one.subject, "says": one.says, "remedy": one.remedy} for one in found],
    }


def _listed(things: list[Any]) -> str:
    return ", ".join(str(one) for one in things) or "none"
