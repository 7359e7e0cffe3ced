"""The commands `schemas`, `rights` and `recipes`: print what programs, administrators and requesters rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darkroom.producer.terminal import config_option, settings_of
from darkroom.schemas.rights import Role, as_kafka_acls, as_strimzi, rights_of
from darkroom.schemas.store_rights import StoreArea, store_policy

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

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
    type=click.Choice(["table", "kafka-acls", "strimzi", "iam", "minio"]),
    default="table",
    show_default=True,
    help="Kafka's rights as a table, commands for kafka-acls, or a KafkaUser for Strimzi; the store's as a policy "
    "of Amazon's IAM or of MinIO.",
)
@click.option("--new-bucket", is_flag=True, help="With iam and minio: the bucket is not there yet, and init makes it.")
@click.option("--principal", default="User:darkroom", show_default=True, help="The principal to give the rights to.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of the rights.")
def rights(config: Path | None, *, role: str, form: str, new_bucket: bool, principal: str, as_json: bool) -> None:
    """Print the minimal rights of a role, on Kafka or on the object store, with this deployment's names.

    Programs take each format as it is; --json is for the table.
    """
    settings = settings_of(config)
    if form in ("iam", "minio"):
        policy = _store_policy(settings, Role(role), new_bucket=new_bucket, is_amazon=form == "iam")
        if policy is None:
            raise click.ClickException(f"The role {role} does not use the object store: it needs no policy there.")
        click.echo(json.dumps(policy, indent=None if as_json else 2))
        return
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


def _store_policy(settings: Settings, role: Role, *, new_bucket: bool, is_amazon: bool) -> dict[str, Any] | None:
    from darkroom.schemas.settings.model_source import StorePrefix

    s3 = settings.s3
    sources = [one for _, one in settings.model if isinstance(one, StorePrefix)]
    return store_policy(
        role,
        StoreArea(s3.bucket, s3.prefix),
        makes_bucket=new_bucket,
        pictures=[bucket for bucket in s3.allowed_buckets if bucket != s3.bucket],
        models=[StoreArea(one.bucket, one.prefix) for one in dict.fromkeys(sources)],
        kms_key=s3.sse_kms_key_id if is_amazon else None,
    )


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
