"""The command `watch`: follows completions, and downloads their pictures if asked to."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkroom.producer.cli.completion_lines import in_words
from darkroom.producer.terminal import config_option, fail, run, settings_of, telling_of_outages
from darkroom.schemas.rights import Role

if TYPE_CHECKING:
    from darkroom.producer.store.objects import Objects
    from darkroom.schemas.events.completion import Completion
    from darkroom.schemas.settings import Settings


@click.command(epilog="Example: darkroom watch --from-beginning --save pictures/")
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest completion that Kafka still has.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N completions.")
@click.option(
    "--save", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Download the pictures to DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Print the completions as JSON lines.")
@config_option
def watch(from_beginning: bool, limit: int | None, save: Path | None, as_json: bool, config: Path | None) -> None:
    """Follow everyone's completions until interrupted (Ctrl-C)."""
    settings = settings_of(config)
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        watching = _watch(settings, from_beginning=from_beginning, limit=limit, save=save, as_json=as_json)
        run(watching, settings=settings, role=Role.WATCH)


async def _watch(
    settings: Settings, *, from_beginning: bool, limit: int | None, save: Path | None, as_json: bool
) -> None:
    from darkroom.producer.client.client import Client
    from darkroom.producer.kafka.topics import ensure_topics
    from darkroom.producer.store.s3_objects import MinioObjects

    await ensure_topics(settings)
    seen = 0
    async with contextlib.AsyncExitStack() as open_:
        objects = None if save is None else await open_.enter_async_context(MinioObjects(settings.s3))
        client = await open_.enter_async_context(Client(settings))
        completions = await open_.enter_async_context(
            contextlib.aclosing(client.completions(from_beginning=from_beginning))
        )
        await open_.enter_async_context(telling_of_outages())
        async for completion in completions:
            click.echo(completion.model_dump_json() if as_json else in_words(completion))
            if objects is not None and save is not None:
                await _save(objects, completion, save)
            seen += 1
            if seen == limit:
                return


async def _save(objects: Objects, completion: Completion, folder: Path) -> None:
    """Download the pictures of a completion. One that is gone is reported and skipped."""
    from darkroom.producer.client.saving import PictureUnusable, save_images

    try:
        await save_images(objects, completion, folder)
    except PictureUnusable as error:
        click.echo(str(error), err=True)
    except OSError as error:
        fail(f"The pictures cannot be written to {folder} ({error}). Check that it is a folder with free space.")
