"""The command `darkroom doctor`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkroom.producer.terminal import config_option, run, settings_of
from darkroom.schemas.rights import Role

if TYPE_CHECKING:
    from darkroom.consumer.doctor.finding import Finding
    from darkroom.schemas.settings import Settings


@click.command(name="doctor", epilog="Example: darkroom doctor")
@config_option
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.WORKER.value,
    show_default=True,
    help="Whose needs are checked: a process or a command, run with these settings.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, the model's folders and plan included.")
def doctor(config: Path | None, role: str, as_json: bool) -> None:
    """Check what a worker needs: machine, device, model, Kafka, rights, topics, group, worker, bucket, clocks.

    With --role, what another role needs. Exit code 1 if one check fails. Nothing is changed.

    The lines `plan` and `attention` say how the model is run on this device, and why.
    """
    from darkroom.producer.logs import configure

    settings = settings_of(config)
    # Fetching a model can take minutes, and says on stderr how far it is.
    configure(settings.log.model_copy(update={"format": "console"}), worker="doctor")
    findings = run(_examine(settings, Role(role), show=None if as_json else _show))
    if as_json:
        checks = {
            one.check: {
                "passed": one.passed,
                "says": one.says,
                "remedy": one.remedy,
                "notes": list(one.notes),
                **one.details,
            }
            for one in findings
        }
        click.echo(json.dumps(checks))
    sys.exit(0 if all(one.passed for one in findings) else 1)


async def _examine(settings: Settings, role: Role, *, show: Callable[[Finding], None] | None) -> list[Finding]:
    """Run the checks, some of which take seconds, and show each as it is done."""
    from darkroom.consumer.doctor.doctor import examine

    findings = []
    async for one in examine(settings, role):
        findings.append(one)
        if show is not None:
            show(one)
    return findings


def _show(one: Finding) -> None:
    click.echo(f"{'ok  ' if one.passed else 'FAIL'} {one.check:9} {one.says}")
    for note in one.notes:
        click.echo(f"     {'':9} - {note}")
    if one.remedy is not None:
        click.echo(f"     {'':9} -> {one.remedy}")
