"""The commands `dlq list`, `dlq show` and `dlq replay`: look at dead letters, and publish their records again."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from typing_extensions import override

from darkroom.producer.terminal import CommandT, config_option, fail, run, settings_of
from darkroom.schemas.rights import Role

if TYPE_CHECKING:
    from darkroom.producer.outcomes.dead_letter_log import DeadLetterLog, Filter, Letter
    from darkroom.producer.outcomes.dead_letters import Original
    from darkroom.producer.outcomes.replays import Replay
    from darkroom.producer.store.objects import Objects
    from darkroom.schemas.settings import Settings

LIMIT_DEFAULT: Final = 1000
"""Letters listed or replayed without --limit."""
_AGO: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ACTION_FAILED: Final = "failed"


class _Time(click.ParamType[datetime]):
    """A time as RFC 3339, in UTC if it has no zone, or as an age: 90m, 2h, 7d."""

    name = "time"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if ago := _AGO.fullmatch(value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a time: write 2027-01-31T12:00:00Z, or an age such as 90m, 2h or 7d.", param, ctx
            )
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that filter dead letters."""

    code: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    worker: str | None

    @property
    def narrows(self) -> bool:
        """Return whether any is given."""
        return bool(self.code or self.since or self.until or self.worker)

    def filter(self, names: Sequence[str]) -> Filter:
        """Return the filter, restricted to `names` if there are any."""
        from darkroom.producer.outcomes.dead_letter_log import Filter

        return Filter(frozenset(names), frozenset(self.code), self.worker, self.since, self.until)


def _filters(command: CommandT) -> CommandT:
    """Add the options that filter dead letters."""
    for option in reversed(
        (
            click.option("--code", multiple=True, metavar="CODE", help="Only with this error code; repeatable."),
            click.option(
                "--since",
                type=_Time(),
                metavar="TIME",
                help="Only since this time: RFC 3339, or an age such as 90m, 2h, 7d.",
            ),
            click.option("--until", type=_Time(), metavar="TIME", help="Only before this time."),
            click.option("--worker", metavar="NAME", help="Only from this worker."),
        )
    ):
        command = option(command)
    return command


def _limit(help_text: str) -> Callable[[CommandT], CommandT]:
    return click.option(
        "--limit", type=click.IntRange(1, 100_000), default=LIMIT_DEFAULT, show_default=True, metavar="N",
        help=help_text,
    )  # fmt: skip


@click.group(
    epilog="Example: darkroom dlq list --since 2h; darkroom dlq show ID; darkroom dlq replay --all --code worker_crash"
)
def dlq() -> None:
    """List, show and replay dead letters.

    A dead letter is a record of the request topic that was not a request, or that crashed its workers. Its ID is the
    record's topic-partition-offset.
    """


@dlq.command(name="list", epilog="Example: darkroom dlq list --code worker_crash --since 1d")
@_filters
@click.option("--topic-partition-offset", "names", multiple=True, metavar="ID", help="Only of this record; repeatable.")
@_limit("At most this many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@config_option
def list_(names: tuple[str, ...], limit: int, as_json: bool, config: Path | None, **filters: Any) -> None:
    """Print the dead letters, oldest first: record, time, reason, and whether it was replayed."""
    settings = settings_of(config)
    letters = run(_letters(settings, _Asked(**filters).filter(names)), settings=settings, role=Role.DLQ_LIST)
    shown = letters[-limit:]
    if as_json:
        for letter in shown:
            click.echo(json.dumps(_facts(letter)))
    else:
        for line in _table(shown):
            click.echo(line)
    if len(shown) < len(letters):
        click.echo(
            f"{len(letters) - len(shown)} older ones are not shown. Raise --limit, or narrow the time.", err=True
        )


@dlq.command(epilog="Example: darkroom dlq show generation.requests-3-17 --raw > request.json")
@click.argument("name", metavar="ID")
@click.option("--raw", is_flag=True, help="Print only the record's value, byte for byte.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, with bytes in base64.")
@config_option
def show(name: str, raw: bool, as_json: bool, config: Path | None) -> None:
    """Print one dead letter: its reason, and the record's key, headers and value.

    A record too large for the dead-letter topic is fetched from the store.
    """
    if raw and as_json:
        raise click.UsageError("Give --raw or --json, not both.")
    settings = settings_of(config)
    letter, original = run(_show(settings, name), settings=settings, role=Role.DLQ_LIST)
    if raw:
        sys.stdout.buffer.write(original.value or b"")
        sys.stdout.buffer.flush()
        return
    if as_json:
        headers = [[_header(header), _base64(content)] for header, content in original.headers]
        record = {
            "key_base64": _base64(original.key),
            "value_base64": _base64(original.value),
            "headers_base64": headers,
            "header_names_base64": [_base64(_name_bytes(header)) for header, _ in original.headers],
        }
        click.echo(json.dumps(_facts(letter) | record))
        return
    for field, fact in _facts(letter).items():
        click.echo(f"{field}: {'-' if fact is None else _plain(str(fact))}")
    click.echo(f"key: {'-' if original.key is None else _plain(_text(original.key))}")
    for header, content in original.headers:
        click.echo(f"header {_plain(_header(header))}: {'-' if content is None else _plain(_text(content))}")
    click.echo("\n(no value)" if original.value is None else f"\n{_plain(_text(original.value), keep=chr(10))}")


@dlq.command(
    epilog="Examples: darkroom dlq replay generation.requests-3-17    "
    "darkroom dlq replay --all --code worker_crash --since 1d --dry-run"
)
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that match the filters and were not replayed yet.")
@_filters
@_limit("At most this many, the oldest.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal, none is asked for.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per letter.")
@config_option
def replay(
    *,
    names: tuple[str, ...],
    all_: bool,
    limit: int,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config: Path | None,
    **filters: Any,
) -> None:
    """Remove the failed outcomes of these dead letters, and publish their records again.

    Each becomes a new record with the same key, value and headers, and so gets a new outcome. The header
    darkroom_replay_of names its origin. A letter that was replayed before is skipped, so the command can be interrupted
    and repeated. An outcome is removed only if it is failed and belongs to this very record.
    """
    asked = _Asked(**filters)
    if bool(names) == all_:
        raise click.UsageError("Give the letters' IDs, or --all.")
    if names and asked.narrows:
        raise click.UsageError("Filters apply to --all, not to letters given by ID.")
    settings = settings_of(config)

    def confirm(number: int) -> None:
        if not yes and not dry_run and number and sys.stdin.isatty():
            click.confirm(f"Replay {number} dead letter{'' if number == 1 else 's'}?", abort=True, err=True)

    def tell(done: Replay) -> None:
        click.echo(
            json.dumps(_outcome(done)) if as_json else f"{done.letter.name}  {done.action.value}  {done.message}"
        )

    replaying = _replay(settings, asked.filter(names), names, limit, dry_run=dry_run, confirm=confirm, tell=tell)
    counts = run(replaying, settings=settings, role=Role.DLQ_LIST if dry_run else Role.DLQ_REPLAY)
    if failed := counts.pop(_ACTION_FAILED, 0):
        fail(
            f"{failed} of {failed + sum(counts.values())} dead letters could not be replayed; the lines above say why."
        )
    if not counts:
        click.echo("There is nothing to replay.", err=True)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Objects, DeadLetterLog]]:
    from darkroom.producer.outcomes.dead_letter_log import DeadLetterLog, TooManyLetters
    from darkroom.producer.outcomes.dead_letters import LetterUnreadable
    from darkroom.producer.outcomes.replays import ReplayFenced
    from darkroom.producer.store.s3_objects import MinioObjects

    async with MinioObjects(settings.s3) as objects, DeadLetterLog(settings, objects) as log:
        try:
            yield objects, log
        except (TooManyLetters, ReplayFenced) as error:
            raise click.ClickException(str(error)) from error
        except LetterUnreadable as error:
            raise click.ClickException(f"The record of this dead letter cannot be read: {error}.") from error


async def _letters(settings: Settings, wanted: Filter) -> list[Letter]:
    async with _opened(settings) as (_, log):
        return await log.letters(wanted)


async def _show(settings: Settings, name: str) -> tuple[Letter, Original]:
    from darkroom.producer.outcomes.dead_letter_log import Filter

    async with _opened(settings) as (_, log):
        letters = await log.letters(Filter(frozenset({name})))
        if not letters:
            _fail_unknown([name])
        return letters[0], await log.original(letters[0])


async def _replay(
    settings: Settings,
    wanted: Filter,
    names: Sequence[str],
    limit: int,
    *,
    dry_run: bool,
    confirm: Callable[[int], None],
    tell: Callable[[Replay], None],
) -> dict[str, int]:
    """Replay the wanted letters. Return the number of each result."""
    from darkroom.producer.outcomes.dead_letter_log import unknown
    from darkroom.producer.outcomes.replays import Replayer

    counts: dict[str, int] = {}
    async with _opened(settings) as (objects, log):
        confirm(len(_chosen(await log.letters(wanted), names, limit)))
        async with Replayer(settings, objects, log, dry_run=dry_run) as replayer:
            # Read again: only now are the results of a replay that this one fenced complete.
            letters = await log.letters(wanted)
            if missing := unknown(names, letters):
                _fail_unknown(missing)
            for letter in _chosen(letters, names, limit):
                done = await replayer.replay(letter)
                counts[done.action.value] = counts.get(done.action.value, 0) + 1
                tell(done)
    return counts


def _chosen(letters: Sequence[Letter], names: Sequence[str], limit: int) -> list[Letter]:
    """Return the named letters, or else the oldest that were not replayed."""
    if names:
        return list(letters)
    return [letter for letter in letters if letter.replayed_as is None][:limit]


def _fail_unknown(names: Sequence[str]) -> NoReturn:
    fail(
        f"There is no dead letter {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}. `darkroom dlq list` "
        "prints the IDs; letters are kept for DARKROOM_TOPICS__DEAD_LETTERS_RETENTION_HOURS."
    )


# --- Output ---------------------------------------------------------------------------------------------


def _facts(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.name,
        "at": letter.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "code": letter.origin.code,
        "message": letter.message,
        "request_id": letter.request_id,
        "attempts": letter.attempts,
        "worker": letter.worker,
        "size_bytes": letter.size_bytes,
        "stored": letter.is_stored,
        "replayed_as": letter.replayed_as,
    }


def _outcome(done: Replay) -> dict[str, Any]:
    return {
        "id": done.letter.name,
        "action": done.action.value,
        "message": done.message,
        "took_back": done.took_back,
        "replayed_as": done.replayed_as,
    }


def _table(letters: Sequence[Letter]) -> list[str]:
    if not letters:
        return ["There are no such dead letters."]
    head = ("ID", "TIME", "CODE", "REQUEST", "ATTEMPTS", "WORKER", "REPLAYED AS", "MESSAGE")
    rows = [
        (
            letter.name,
            f"{letter.at:%Y-%m-%dT%H:%M:%SZ}",
            letter.origin.code,
            letter.request_id or "-",
            str(letter.attempts),
            letter.worker,
            letter.replayed_as or "-",
            letter.message,
        )
        for letter in letters
    ]
    plain = [head, *(tuple(_plain(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in plain) for column in range(len(head) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in plain
    ]


def _name_bytes(name: str) -> bytes:
    """Return the bytes of a header's name in Kafka. Bytes that are not UTF-8 were decoded as lone surrogates."""
    return name.encode("utf-8", "surrogateescape")


def _header(name: str) -> str:
    return _text(_name_bytes(name))


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _plain(text: str, keep: str = "") -> str:
    """Escape control characters, which a record may hold and a terminal would obey."""
    return "".join(one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in text)


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
