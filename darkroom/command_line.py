"""The command `darkroom`: imports a command's module only when the command is called."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "up": ("darkroom.consumer.cli.stack", "Start a Kafka and an S3 server on this machine."),
    "down": ("darkroom.consumer.cli.stack", "Stop them."),
    "status": ("darkroom.consumer.cli.stack", "Say whether they run, and where."),
    "init": (
        "darkroom.consumer.cli.init",
        "Make topics and bucket, and commit initial offsets, before any worker runs.",
    ),
    "serve": ("darkroom.consumer.cli.serve", "Run a worker: requests in, pictures and completions out."),
    "gateway": ("darkroom.producer.cli.gateway", "Serve the HTTP API and the web page."),
    "hooks": ("darkroom.consumer.cli.hooks", "Deliver callbacks: post completions to the URLs that callers named."),
    "send": ("darkroom.producer.cli.send", "Send requests, and wait for their completions if asked to."),
    "pose": ("darkroom.consumer.cli.pose", "Show the people in a photo or in a file of keypoints."),
    "watch": ("darkroom.producer.cli.watch", "Follow completions."),
    "cancel": ("darkroom.producer.cli.send", "Cancel a request."),
    "erase": ("darkroom.producer.cli.erase", "Delete the pictures and texts of requests, or of a tenant."),
    "dlq": ("darkroom.producer.cli.dlq", "List, show and replay dead letters."),
    "keys": ("darkroom.producer.cli.keys", "Make, list and revoke the gateway's API keys."),
    "audit": ("darkroom.consumer.cli.audit", "Check that every record has exactly one outcome."),
    "provenance": ("darkroom.consumer.cli.provenance", "Check the content credentials of pictures."),
    "rights": ("darkroom.producer.cli.contracts", "Print the Kafka rights that a role needs."),
    "doctor": ("darkroom.consumer.cli.doctor", "Check what a worker needs, one line a check."),
    "calibrate": ("darkroom.consumer.cli.calibrate", "Measure the device: which batches pay, at which sizes."),
    "plan": ("darkroom.consumer.cli.plan", "Say how many workers a load needs, and what they cost."),
    "demo": ("darkroom.consumer.cli.demo", "Show the whole of it with the built-in tiny model."),
    "train-tiny": ("darkroom.tools.tiny.training.command", "Train the built-in tiny model anew."),
    "recipes": ("darkroom.producer.cli.contracts", "List the operator's recipes."),
    "schemas": ("darkroom.producer.cli.contracts", "Print or write JSON Schemas and AsyncAPI."),
}
"""Each command's module and its line in `--help`. The function has the command's name, `-` being `_`."""


class _Commands(click.Group):
    """Imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: darkroom up; darkroom serve & darkroom send --prompt 'a dancer' --count 2 --wait; darkroom down",
)
@click.version_option(package_name="darkroom", prog_name="darkroom")
def main() -> None:
    """Generation events in on Kafka, pictures out to S3, exactly one completion event per request."""
