"""The command `darkroom rights`: what a role's user has to be allowed on Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import click

from darkroom.producer.cli.terminal import config_option, settings_of
from darkroom.schemas.rights import Role, as_kafka_acls, as_strimzi, rights_of


@click.command(name="rights", epilog="Example: darkroom rights --role worker --format kafka-acls --principal User:dark")
@config_option
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="A process or a command.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "kafka-acls", "strimzi"]),
    default="table",
    show_default=True,
    help="For people, as commands of Apache Kafka's tool, or as Strimzi's KafkaUser.",
)
@click.option("--principal", default="User:darkroom", show_default=True, help="Who is to have the rights.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of the rights.")
def rights(config: Path | None, role: str, form: str, principal: str, as_json: bool) -> None:
    """Print the least rights on Kafka that a role needs, with this deployment's topics and group."""
    settings = settings_of(config)
    wanted = rights_of(Role(role), prefix=settings.topics.prefix, group_id=settings.kafka.group_id)
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "operation": right.operation,
                        "resource": right.resource.value,
                        "name": right.name,
                        "pattern": "prefixed" if right.is_prefix else "literal",
                    }
                    for right in wanted
                ]
            )
        )
    elif form == "kafka-acls":
        click.echo(as_kafka_acls(wanted, principal=principal))
    elif form == "strimzi":
        # JSON is YAML (YAML 1.2), and kubectl takes both.
        click.echo(json.dumps(as_strimzi(wanted, user=principal.removeprefix("User:")), indent=2))
    else:
        for right in wanted:
            click.echo(f"{right.operation:<16}{right.resource.value:<18}{right.name}{'*' if right.is_prefix else ''}")
