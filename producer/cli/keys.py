"""The commands `keys new`, `keys list` and `keys revoke`: edit the file of the gateway's API keys."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from darkroom.producer.gateway.access.keys import KEYS_MAX, ApiKey, KeyRing, new_key, parse_keys
from darkroom.producer.gateway.principal import ALL_SCOPES, USUAL_SCOPES, Scope
from darkroom.producer.terminal import config_option, fail, settings_of
from darkroom.schemas.names import is_identity

_file_option = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The keys file; DARKROOM_ACCESS__KEYS_FILE by default.",
)


@click.group(
    epilog="Example: darkroom keys new --tenant studio --file keys.jsonl; darkroom keys list --file keys.jsonl"
)
def keys() -> None:
    """Make, list and revoke the gateway's API keys.

    The file holds hashes alone. A running gateway notices a change within seconds. To rotate a key, make a second one
    for its tenant, hand it out, and revoke the first.
    """


@keys.command(epilog="Example: darkroom keys new --tenant studio --scopes submit,read --expires-days 90")
@click.option("--tenant", required=True, metavar="NAME", help="The tenant that it belongs to.")
@click.option(
    "--scopes",
    default=",".join(USUAL_SCOPES),
    show_default=True,
    metavar="LIST",
    help="Its scopes; erase is given by name alone.",
)
@click.option("--expires-days", type=click.IntRange(1, 36_500), metavar="N", help="Expire after N days.")
@_file_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@config_option
def new(
    *, tenant: str, scopes: str, expires_days: int | None, file: Path | None, as_json: bool, config: Path | None
) -> None:
    """Make a key, add its hash to the file, and print the key, which cannot be shown again."""
    if not is_identity(tenant):
        raise click.UsageError("A tenant has 1-128 characters of A-Za-z0-9._-, and does not start with a dot.")
    asked = {scope.strip() for scope in scopes.split(",") if scope.strip()}
    if not asked or not asked <= ALL_SCOPES:
        raise click.UsageError(f"Give one or more of the scopes {','.join(Scope)}.")
    now = datetime.now(UTC)
    expires = None if expires_days is None else now + timedelta(days=expires_days)
    text, key = new_key(tenant, asked, now=now, expires=expires)

    def add(known: list[ApiKey]) -> list[ApiKey]:
        if len(known) >= KEYS_MAX:
            fail(f"The file has {KEYS_MAX} keys, the most that it may have. Delete the lines of revoked ones.")
        return [*known, key]

    path = _path(file, config)
    _change(path, add)
    if as_json:
        click.echo(json.dumps({"key": text, **_facts(key)}))
        return
    click.echo(text)
    click.echo(f"The key {key.id} of {tenant} is in {path}. This is the only time that it is shown: keep it.", err=True)


@keys.command(name="list", epilog="Example: darkroom keys list --json")
@_file_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@config_option
def list_(file: Path | None, as_json: bool, config: Path | None) -> None:
    """Print the keys: id, tenant, scopes, creation, expiry and state."""
    known = list(_read(_path(file, config)).keys.values())
    if as_json:
        for key in known:
            click.echo(json.dumps(_facts(key)))
        return
    rows = [("ID", "TENANT", "SCOPES", "CREATED", "EXPIRES", "STATE")]
    for key in known:
        facts = _facts(key)
        cells = (key.id, key.tenant, ",".join(sorted(key.scopes)), facts["created"], facts["expires"], facts["state"])
        rows.append(tuple(str(cell or "-") for cell in cells))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command(epilog="Example: darkroom keys revoke k7m2q9x4ab")
@click.argument("key_id", metavar="ID")
@_file_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@config_option
def revoke(key_id: str, file: Path | None, as_json: bool, config: Path | None) -> None:
    """Revoke a key, and end the sessions that were started with it. Its line stays in the file as a record."""
    path = _path(file, config)

    def disable(known: list[ApiKey]) -> list[ApiKey]:
        if key_id not in {key.id for key in known}:
            fail(f"There is no key {key_id!r} in {path}. `darkroom keys list` prints the ids.")
        return [key.revoked() if key.id == key_id else key for key in known]

    [key] = [key for key in _change(path, disable) if key.id == key_id]
    click.echo(json.dumps(_facts(key)) if as_json else f"The key {key_id} of {key.tenant} is revoked.")


def _path(file: Path | None, config: Path | None) -> Path:
    path = file or settings_of(config).access.keys_file
    if path is None:
        raise click.UsageError("No keys file is set. Give --file, or set DARKROOM_ACCESS__KEYS_FILE.")
    return path


def _read(path: Path) -> KeyRing:
    try:
        return parse_keys(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return KeyRing([])
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        fail(f"The keys file {path} cannot be used: {reason}. Correct it.")


def _change(path: Path, change: Callable[[list[ApiKey]], list[ApiKey]]) -> list[ApiKey]:
    """Replace the file atomically, under a lock: a gateway reads either the old keys or the new ones."""
    try:
        with _locked(path):
            changed = change(list(_read(path).keys.values()))
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write("".join(key.line() for key in changed))
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, mode)
                os.replace(name, path)
            except OSError:
                os.unlink(name)
                raise
    except OSError as error:
        fail(f"The keys file {path} cannot be written ({error.strerror}). Name a file that you may write to.")
    return changed


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _facts(key: ApiKey) -> dict[str, object]:
    entry = json.loads(key.line())
    del entry["sha256"]
    entry.pop("disabled", None)
    state = "revoked" if key.disabled else "active" if key.is_active(datetime.now(UTC)) else "expired"
    return {**entry, "expires": entry.get("expires"), "state": state}
