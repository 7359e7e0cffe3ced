"""The command `hooks`: delivers callbacks until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkroom.producer.tasks import run
from darkroom.producer.terminal import config_option, settings_of

if TYPE_CHECKING:
    from darkroom.producer.callbacks.receivers import Receiver
    from darkroom.schemas.settings import Settings


@click.command(name="hooks", epilog="Example: DARKROOM_HOOKS__FILE=callbacks.toml darkroom hooks --metrics-port 9109")
@click.option("--metrics-port", type=click.IntRange(0, 65_535), help="The port of probes and metrics; 0: a free one.")
@config_option
def hooks(metrics_port: int | None, config: Path | None) -> None:
    """Post each job's completion to the URL that its caller or its tenant asked for, signed (Standard Webhooks).

    What fails is tried again for a day, and then stored beside the job as callback.json. Each callback is delivered at
    least once; the header webhook-id is the same in every repetition. Any number of these processes share the work.
    DARKROOM_HOOKS__FILE names the tenants and their secrets. SIGTERM ends it.
    """
    from darkroom.producer.callbacks.receivers import read_receivers
    from darkroom.schemas.errors import SettingsError

    settings = settings_of(config, {"hooks.metrics_port": metrics_port})
    try:
        receivers = read_receivers(settings.hooks)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if not receivers:
        raise click.UsageError(
            "No tenant may have callbacks. Write a file with [tenants.NAME] and secrets, and name it in "
            "DARKROOM_HOOKS__FILE, for the gateways as well."
        )
    signal.signal(signal.SIGTERM, _end_before_work)
    sys.exit(run(_serve(settings, receivers)))


def _end_before_work(*_: object) -> None:
    """End at SIGTERM before the event loop takes it: a container's first process is sent none without a handler."""
    raise SystemExit(0)


async def _serve(settings: Settings, receivers: Mapping[str, Receiver]) -> int:
    import structlog

    from darkroom.consumer.hooks.hooks import Hooks
    from darkroom.producer.gateway.bounded_store import BoundedStore, hurried
    from darkroom.producer.logs import configure
    from darkroom.producer.store.s3_objects import MinioObjects

    configure(settings.log, hooks=f"{socket.gethostname()}-{os.getpid()}")
    timeout_s = settings.gateway.store_timeout_s
    async with MinioObjects(hurried(settings.s3, timeout_s)) as objects:
        # Bounded: while the store is away the group is still to be told that this member lives.
        served = Hooks(settings, receivers, BoundedStore(objects, timeout_s))
        try:
            health = served.serve_health()
        except OSError as error:
            port = settings.hooks.metrics_port
            raise click.ClickException(
                f"Port {port} cannot be used ({error.strerror or error}). Choose another with --metrics-port."
            ) from error
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, served.stop)
        structlog.get_logger("darkroom.hooks").info("serving", port=health.port, tenants=len(receivers))
        try:
            await served.run()
        finally:
            await asyncio.to_thread(health.close)
    return 0
