"""Darkroom's front door: the public names, and `main` of the command line.

Nothing here imports what it does not need: a command's module is imported when the command is called, and the
public names when they are asked for, so that `darkroom --help` and a client start at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from producer.requests.client import Client, KafkaUnavailable, SendInterrupted
    from schemas.completion import Completion
    from schemas.errors import RequestRejected
    from schemas.events import Progress
    from schemas.request import GenerationRequest
    from schemas.settings import Settings, load_settings

_PUBLIC = {
    "Client": "producer.requests.client",
    "Completion": "schemas.completion",
    "GenerationRequest": "schemas.request",
    "KafkaUnavailable": "producer.connection",
    "Progress": "schemas.events",
    "RequestRejected": "schemas.errors",
    "SendInterrupted": "producer.requests.client",
    "Settings": "schemas.settings",
    "load_settings": "schemas.settings",
}

__all__ = [
    "Client",
    "Completion",
    "GenerationRequest",
    "KafkaUnavailable",
    "Progress",
    "RequestRejected",
    "SendInterrupted",
    "Settings",
    "load_settings",
    "main",
]

_COMMANDS = {
    "up": ("consumer.stack.commands", "Start a Kafka and an S3 server on this machine."),
    "down": ("consumer.stack.commands", "Stop them."),
    "status": ("consumer.stack.commands", "Say whether they run, and where."),
    "init": ("consumer.init_command", "Make topics and bucket, and commit initial offsets, before any worker runs."),
    "serve": ("consumer.serve_command", "Run a worker: requests in, pictures and completions out."),
    "gateway": ("producer.gateway.command", "Serve the HTTP API and the web page."),
    "send": ("producer.commands", "Send requests, and wait for their completions if asked to."),
    "pose": ("consumer.pose_command", "Show the people in a photo or in a file of keypoints."),
    "watch": ("producer.commands", "Follow completions."),
    "cancel": ("producer.commands", "Take a request back."),
    "dlq": ("producer.dlq_command", "List, show and replay dead letters."),
    "keys": ("producer.gateway.access.command", "Make, list and revoke the gateway's API keys."),
    "audit": ("consumer.audit_command", "Check that every record has exactly one outcome."),
    "rights": ("producer.rights_command", "Print the Kafka rights that a role needs."),
    "doctor": ("consumer.doctor_command", "Check what a worker needs, one line a check."),
    "calibrate": ("consumer.calibrate_command", "Measure the device: which batches pay, at which sizes."),
    "plan": ("consumer.plan_command", "Say how many workers a load needs, and what they cost."),
    "demo": ("consumer.demo_command", "Show the whole of it with the built-in tiny model."),
    "train-tiny": ("inference.tiny.training.command", "Train the built-in tiny model anew."),
    "schemas": ("schemas.commands", "Print or write JSON Schemas and AsyncAPI."),
}
"""Each command's module and its line in `--help`. The function has the command's name, `-` being `_`."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for (PEP 562)."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'darkroom' has no attribute {name!r}")


class _Commands(click.Group):
    """Imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    epilog="Example: darkroom up; darkroom serve & darkroom send --prompt 'a dancer' --count 2 --wait; darkroom down",
)
@click.version_option(package_name="darkroom", prog_name="darkroom")
def main() -> None:
    """Generation events in on Kafka, pictures out to S3, exactly one completion event per request."""


if __name__ == "__main__":
    sys.exit(main())
