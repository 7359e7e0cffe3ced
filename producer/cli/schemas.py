"""The command `darkroom schemas`."""

from __future__ import annotations

import json
from pathlib import Path

import click

_NAMES = ("request", "completion", "progress", "cancellation", "errors", "unsupported-fields", "asyncapi")


@click.command(
    name="schemas",
    epilog="Example: darkroom schemas --only request > generation-request.schema.json",
)
@click.option("--only", type=click.Choice(_NAMES), help="Print or write this document alone.")
@click.option(
    "--write",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the documents to files in DIR, made if need be, and print the files' names.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, for machines.")
def schemas(only: str | None, folder: Path | None, as_json: bool) -> None:
    """Print the events' JSON Schemas, the error codes and the AsyncAPI document, or write them to files.

    Without options it prints one JSON object with all of them by name.
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
