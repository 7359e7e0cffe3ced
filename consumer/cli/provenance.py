"""The commands `provenance verify`, `provenance detect` and `provenance test-certificate`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from darkroom.consumer.provenance.verifying import Credentials

PICTURE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Above a PNG of 4096 x 4096 pixels, which has at most 48 MiB."""


@click.group(epilog="Example: darkroom provenance verify picture.png")
def provenance() -> None:
    """Check content credentials and watermarks, and make a certificate for trying credentials out.

    Credentials need darkroom[provenance], watermarks darkroom[render].
    """


@provenance.command(
    epilog="Example: darkroom provenance verify picture.png --trust authority.pem",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PEM",
    help="Certificates of authorities: the signer must be vouched for by one of them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def verify(*, file: Path, trust: Path | None, as_json: bool) -> None:
    """Check the content credentials (C2PA) of FILE: a PNG, JPEG or WebP.

    Exit code 0 if the picture is as it was signed, and with --trust by whom an authority vouches for; 1 if it is not,
    or has no credentials.
    """
    _installed()
    from darkroom.consumer.provenance.verifying import Worth, credentials_of

    content = _read(file)
    try:
        found = credentials_of(content, anchors_pem=None if trust is None else trust.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {error}.") from error
    if as_json:
        click.echo(json.dumps({"file": str(file), **asdict(found)}))
    else:
        click.echo(_in_words(file, found))
    wanted = {Worth.TRUSTED} if trust is not None else {Worth.TRUSTED, Worth.VALID}
    if found.worth is Worth.VALID and trust is not None and not as_json:
        click.echo(f"{file}: none of the certificates in {trust} vouches for the signer.", err=True)
    sys.exit(0 if found.worth in wanted else 1)


@provenance.command(epilog="Example: darkroom provenance detect picture.jpg")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def detect(*, file: Path, as_json: bool) -> None:
    """Look for Darkroom's watermark in the pixels of FILE: a PNG, JPEG or WebP.

    Takes seconds for a picture without one, since it is tried at many scales. Exit code 0 if the mark is there, 1 if
    not. A picture without it may be Darkroom's all the same: unmarked, too small, or changed too much.
    """
    from importlib.util import find_spec

    if find_spec("numpy") is None:
        raise click.ClickException("Watermarks need numpy, of darkroom[render]: install it.")
    from darkroom.inference.watermark import PictureUnsuitable, look_for_mark

    try:
        found = look_for_mark(_read(file))
    except PictureUnsuitable as error:
        raise click.ClickException(f"{file}: {error}") from error
    if as_json:
        click.echo(json.dumps({"file": str(file), "marked": found.is_marked, "score": round(found.score, 2)}))
    else:
        said = "Darkroom's watermark is in it" if found.is_marked else "no watermark of Darkroom's was found"
        click.echo(f"{file}: {said} (score {found.score:.1f})")
    sys.exit(0 if found.is_marked else 1)


@provenance.command(
    name="test-certificate",
    epilog="Example: darkroom provenance test-certificate certificates/",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the paths as one JSON object.")
def trial_certificate(*, folder: Path, as_json: bool) -> None:
    """Make a certificate and its key in FOLDER, for trying credentials out: no reader trusts its authority.

    Writes chain.pem and key.pem, which workers sign with, and authority.pem, for `verify --trust`. The names in them
    say that they are a test's. Overwrites nothing.
    """
    _installed()
    from darkroom.consumer.provenance.trial_chain import write_trial_chain

    try:
        chain = write_trial_chain(folder)
    except FileExistsError as error:
        raise click.ClickException(f"{error.filename} is there already. Name another folder.") from error
    except OSError as error:
        raise click.ClickException(
            f"{error.filename} cannot be written ({error.strerror}). Check the folder."
        ) from error
    if as_json:
        click.echo(json.dumps({name: str(path) for name, path in chain._asdict().items()}))
        return
    click.echo(f"DARKROOM_PROVENANCE__CERT_FILE={chain.chain}")
    click.echo(f"DARKROOM_PROVENANCE__KEY_FILE={chain.key}")
    click.echo(f"A test's certificate: no reader trusts it, unless it is told of {chain.authority}.", err=True)


def _installed() -> None:
    from darkroom.consumer.provenance.signing import is_installed

    if not is_installed():
        raise click.ClickException("Content credentials need darkroom[provenance]: install it.")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(PICTURE_BYTES_MAX + 1)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read ({error.strerror}). Check its path.") from error
    if len(content) > PICTURE_BYTES_MAX:
        raise click.ClickException(f"{file} has more than {PICTURE_BYTES_MAX} bytes: no picture of ours is so large.")
    return content


def _in_words(file: Path, found: Credentials) -> str:
    said = {
        "trusted": "as it was signed, and the signer is trusted",
        "valid": "as it was signed; nobody vouches for the signer here",
        "invalid": "NOT as it was signed",
        "none": "without content credentials",
    }
    rows = {
        "signer": found.signer,
        "algorithm": found.algorithm,
        "signed at": found.signed_at,
        "made by": found.generator,
        "model": None if found.model is None else f"{found.model} {found.revision or ''}".rstrip(),
        "source type": found.source_type,
        "request": found.request,
        "made from": ", ".join(found.ingredients) or None,
        "wrong": ", ".join(found.failures) or None,
    }
    lines = [f"{name:12} {value}" for name, value in rows.items() if value is not None]
    return "\n".join([f"{file}: {said[found.worth.value]}", *lines])
