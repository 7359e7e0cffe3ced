"""The command `darkroom demo`, behind `make demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from darkroom.schemas.events.completion import Completion


@click.command(name="demo", epilog="Example: darkroom demo --out demo-out")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path(".darkroom"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def demo(directory: Path, out: Path, as_json: bool) -> None:
    """Send twelve sample requests through a real Kafka, a worker and a real S3 store, and audit the result.

    Starts what it needs and stops what it started. Exit code 0 only when every request succeeded exactly once.
    """
    from darkroom.consumer.demo.demo import DemoError, run_demo
    from darkroom.consumer.stack.errors import StackError

    try:
        result = run_demo(directory, out, lambda line: click.echo(line, err=True))
    except (DemoError, StackError, TimeoutError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        completions = {name: one.model_dump(mode="json") for name, one in result.completions.items()}
        click.echo(json.dumps({"ok": result.ok, "audit": result.audit, "completions": completions}))
    else:
        _table(result.completions)
        click.echo(f"audit: {json.dumps(result.audit)}")
        click.echo(f"pictures and contact-sheet.png are in {result.out}/")
        click.echo("every request succeeded exactly once" if result.ok else "NOT every request succeeded exactly once")
    sys.exit(0 if result.ok else 1)


def _table(completions: dict[str, Completion]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("request", "status", "rows shared", "queued ms", "render ms", "store ms", "object key")
    for name, one in sorted(completions.items()):
        timings, batch = one.timings_ms, one.batch
        render = (timings.denoise or 0) + (timings.decode or 0)
        table.add_row(
            name,
            one.status.value,
            "-" if batch is None else f"{batch.rows_min}-{batch.rows_max}",
            f"{timings.queued or 0:.0f}",
            f"{render:.0f}",
            f"{timings.store or 0:.0f}",
            one.images[0].key if one.images else (one.error.code.value if one.error else "-"),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
