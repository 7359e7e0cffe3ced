"""The command `audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkroom.producer.terminal import config_option, is_for_people, run, settings_of
from darkroom.schemas.rights import Role

if TYPE_CHECKING:
    from darkroom.consumer.audit.audit import AuditReport
    from darkroom.schemas.settings import Settings


@click.command(epilog="Example: darkroom audit")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as also where the output is no terminal.")
@click.option(
    "--credentials",
    is_flag=True,
    help="Check the content credentials of signed pictures, too: 5 ms each. Needs darkroom[provenance].",
)
@config_option
@click.pass_context
def audit(context: click.Context, as_json: bool, credentials: bool, config: Path | None) -> None:
    """Check that every record has exactly one outcome, and that every picture is in the bucket.

    Reads requests and outcomes from their beginning to where they end now, and all pictures that completions name.
    Changes nothing; workers may go on meanwhile. Exit code 1 if anything is missing, duplicated or corrupt.
    """
    if credentials:
        from darkroom.consumer.provenance.signing import is_installed

        if not is_installed():
            raise click.UsageError("--credentials needs darkroom[provenance]: install it.")
    settings = settings_of(config)
    report = run(_audit(settings, credentials=credentials), settings=settings, role=Role.AUDIT)
    click.echo(_table(report) if is_for_people(as_json=as_json) else json.dumps(report.as_dict()))
    if not report.is_clean:
        click.echo(_in_words(report), err=True)
        context.exit(1)


async def _audit(settings: Settings, *, credentials: bool) -> AuditReport:
    from darkroom.consumer.audit.audit import audit as perform
    from darkroom.producer.store.s3_objects import MinioObjects

    are_signed: Callable[[bytes], bool] | None = None
    if credentials:
        from darkroom.consumer.provenance.verifying import are_whole as are_signed
    async with MinioObjects(settings.s3) as objects:
        return await perform(settings, objects, are_signed=are_signed)


def _table(report: AuditReport) -> str:
    """Return the report for a person: a line a number that is not zero, and whether all is well."""
    counts = {name: value for name, value in report.as_dict().items() if isinstance(value, int)}
    width = max(len(str(value)) for value in counts.values())
    lines = [
        f"{value:>{width}}  {name.replace('_', ' ')}" for name, value in counts.items() if value or name == "records"
    ]
    return "\n".join([*lines, "Nothing is missing, duplicated or corrupt."] if report.is_clean else lines)


def _in_words(report: AuditReport) -> str:
    wrong = {
        "records have no outcome although they are committed": report.missing,
        "records have more than one": report.duplicated,
        "pictures are not in the bucket": report.objects_missing,
        "pictures are not the ones that were published": report.objects_corrupt,
        "erased requests still have pictures or uploads in the bucket, and want `darkroom erase` again": (
            report.erasures_unfinished
        ),
        "pictures were signed, and their content credentials do not hold": report.credentials_broken,
    }
    found = [f"{len(entries)} {what}, such as {entries[0]}" for what, entries in wrong.items() if entries]
    return f"The audit failed: {'; '.join(found)}. The lists of the report name each."
