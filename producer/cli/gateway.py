"""The command `gateway`: serves the HTTP API and the web page until SIGTERM."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkroom.producer.terminal import config_option, settings_of

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

_BACKLOG = 2048
"""Connections that the kernel queues until they are accepted: a burst of some seconds."""


@click.command(
    name="gateway", epilog="Example: darkroom gateway --port 8080   (in a folder where `darkroom up` runs a stack)"
)
@click.option("--host", metavar="ADDRESS", help="The address to listen on; loopback by default.")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port; 0 takes a free one and logs it.")
@config_option
def gateway(host: str | None, port: int | None, config: Path | None) -> None:
    """Serve the HTTP API and the web page: submit jobs, and get their state, events and pictures.

    Any number of gateways can run side by side, and start and stop at any time: they keep no state. A gateway starts
    even while Kafka or the store is away, and says so at /readyz. SIGTERM lets calls finish.
    """
    settings = settings_of(config, {"gateway.host": host, "gateway.port": port})
    sys.exit(_serve(settings))


def _serve(settings: Settings) -> int:
    import structlog
    import uvicorn

    from darkroom.producer.gateway.access.assembly import access_of
    from darkroom.producer.gateway.app import create_app
    from darkroom.producer.gateway.metrics import Metrics
    from darkroom.producer.gateway.routes.images import origins_of
    from darkroom.producer.gateway.server import Server
    from darkroom.producer.logs import configure
    from darkroom.producer.tracing import recording
    from darkroom.schemas.errors import SettingsError

    own = settings.gateway
    configure(settings.log, gateway=f"{socket.gethostname()}-{os.getpid()}")
    log = structlog.get_logger("darkroom.gateway")
    try:
        listening = _listen(own.host, own.port)
    except OSError as error:
        raise click.ClickException(
            f"Port {own.port} on {own.host} cannot be used ({error.strerror or error}). Choose another with --port, or "
            "0 for a free one."
        ) from error
    metrics = Metrics()
    try:
        access = access_of(settings, metrics.registry, image_origins=origins_of(settings))
        app = create_app(settings, access, metrics)
    except SettingsError as error:
        listening.close()
        raise click.ClickException(str(error)) from error
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,  # any caller can forge them
            limit_concurrency=own.connections_max,
            timeout_keep_alive=own.keep_alive_s,
            timeout_graceful_shutdown=own.shutdown_s,
        ),
        app,
    )
    log.info("listening", host=own.host, port=listening.getsockname()[1])
    try:
        with recording("darkroom-gateway"):
            server.run(sockets=[listening])
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if not server.started:
        raise click.ClickException("The gateway did not start. The log says why.")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return listening
