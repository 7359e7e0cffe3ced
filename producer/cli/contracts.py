"""The commands `schemas`, `rights` and `recipes`: print what programs, administrators and requesters rely on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from darkroom.producer.terminal import config_option, settings_of
from darkroom.schemas.rights import Role, as_kafka_acls, as_strimzi, rights_of

_NAMES = ("request", "completion", "progress", "cancellation", "errors", "unsupported-fields", "asyncapi")


@click.command(
    name="schemas",
    epilog="Example: darkroom schemas --only request > generation-request.schema.json",
)
@click.option("--only", type=click.Choice(_NAMES), help="Print or write only this document.")
@click.option(
    "--write",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the documents to files in DIR, which is created if missing, and print the files' names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def schemas(only: str | None, folder: Path | None, as_json: bool) -> None:
    """Print the events' JSON Schemas, the error codes and the AsyncAPI document, or write them to files.

    Without options, print one JSON object with all of them by name.
    """
    from darkroom.schemas import publish

    names = publish.DOCUMENT_NAMES if only is None else (only,)
    if folder is not None:
        try:
            files = [str(file) for file in publish.write(folder, names)]
        except OSError as error:
            raise click.ClickException(
                f"{folder} cannot be written ({error.strerror}). Name a folder that you may write to."
            ) from error
        click.echo(json.dumps(files) if as_json else "\n".join(files))
        return
    content = publish.document(only) if only is not None else {name: publish.document(name) for name in names}
    click.echo(json.dumps(content, ensure_ascii=False) if as_json else publish.as_text(content), nl=as_json)


@click.command(name="rights", epilog="Example: darkroom rights --role worker --format kafka-acls --principal User:dark")
@config_option
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="The process or command.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "kafka-acls", "strimzi"]),
    default="table",
    show_default=True,
    help="A table, commands for Apache Kafka's kafka-acls, or a KafkaUser for Strimzi.",
)
@click.option("--principal", default="User:darkroom", show_default=True, help="The principal to give the rights to.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of the rights.")
def rights(config: Path | None, role: str, form: str, principal: str, as_json: bool) -> None:
    """Print the minimal Kafka rights of a role, with this deployment's topics and group."""
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


@click.command(name="recipes", epilog="Example: DARKROOM_MODEL__RECIPES_FILE=examples/recipes.toml darkroom recipes")
@config_option
@click.option("--json", "as_json", is_flag=True, help="A JSON array of the recipes.")
def recipes(config: Path | None, as_json: bool) -> None:
    """List the recipes of DARKROOM_MODEL__RECIPES_FILE, with the fields that each fills in."""
    from darkroom.producer.recipes_file import read_recipes
    from darkroom.schemas.errors import SettingsError

    try:
        found = list(read_recipes(settings_of(config).model.recipes_file))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([recipe.as_json() for recipe in found], ensure_ascii=False))
        return
    if not found:
        click.echo("There are no recipes. DARKROOM_MODEL__RECIPES_FILE names their file.", err=True)
    for recipe in found:
        click.echo(f"{recipe.name}: {recipe.description}" if recipe.description else recipe.name)
        for name, value in recipe.fields.items():
            click.echo(f"  {name} = {json.dumps(value, ensure_ascii=False)}")
