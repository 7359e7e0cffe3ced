"""The command `darkroom serve`: one worker, from its settings to its drained end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darkroom.producer.tasks import run
from darkroom.producer.terminal import config_option, settings_of
from darkroom.schemas.settings import Settings, shown

if TYPE_CHECKING:
    from darkroom.consumer.worker.worker import Worker as MadeWorker

PORTS = 65_536
DRAIN_MORE_S = 30.0
"""What a worker may take beyond its own limit of draining: publishing what is finished, leaving the group."""


@click.command(
    name="serve", epilog="Example: darkroom serve --metrics-port 0   (in a folder where `darkroom up` runs a stack)"
)
@config_option
@click.option("--model-path", help="A diffusers folder or checkpoint, or s3://bucket/prefix; else the tiny model.")
@click.option("--controlnet-path", help="The same of an OpenPose ControlNet.")
@click.option("--adapters-path", help="A folder of LoRA files, or s3://bucket/prefix.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option(
    "--devices",
    metavar="all|LIST",
    help="One worker process for each: all GPUs, or cuda:0,cuda:1; with names and metrics ports counted up.",
)
@click.option("--simulated-device", type=float, metavar="MS", help="Sleep MS milliseconds a step; render nothing.")
@click.option("--simulated-curve", type=click.Path(path_type=Path), help="JSON: milliseconds a step by rows.")
@click.option("--simulated-profile", type=click.Path(path_type=Path), help="A profile of `darkroom calibrate`'s.")
@click.option("--max-rows", type=int, help="Images that may share a step.")
@click.option("--metrics-port", type=int, help="Port of /livez, /readyz and /metrics; 0 takes a free one.")
@click.option("--name", help="The worker's name in completions and logs.")
@click.option("--log-format", type=click.Choice(["json", "console"]), help="json for machines, console for people.")
@click.option("--show-settings", is_flag=True, help="Print the effective settings, secrets masked, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --show-settings: JSON.")
def serve(config: Path | None, show_settings: bool, as_json: bool, devices: str | None, **flags: Any) -> None:
    """Run a worker: take requests off Kafka, render them in shared batches, store pictures, publish completions.

    Without a model setting it uses the built-in tiny model. SIGTERM drains: what is on the device is finished,
    everything else is left to other workers.
    """
    if devices is not None and flags["device"] is not None:
        raise click.UsageError("--device and --devices exclude each other: name one device, or several.")
    settings = settings_of(config, _overrides(flags))
    if show_settings:
        _show(settings, as_json=as_json)
        return
    if devices is not None:
        sys.exit(run(_supervise(_children(devices, config, flags, settings), settings)))
    if settings.model.path is None and not settings.simulated.is_asked_for:
        click.echo("No model is set (DARKROOM_MODEL__PATH): using the built-in tiny model.", err=True)
    signal.signal(signal.SIGTERM, _end_before_work)
    sys.exit(run(run_worker(settings)))


def _end_before_work(*_: object) -> None:
    """SIGTERM until `Worker.drain` takes it: nothing has begun, so there is nothing to finish.

    A container's first process is sent no signal that it has no handler for. One that is stopped while it starts would
    go on, take work, and be killed with it when its grace period is over.
    """
    raise SystemExit(0)


def _overrides(flags: dict[str, Any]) -> dict[str, Any]:
    return {
        "model.path": flags["model_path"],
        "model.controlnet_path": flags["controlnet_path"],
        "model.adapters_path": flags["adapters_path"],
        "device": flags["device"],
        "simulated.step_ms": flags["simulated_device"],
        "simulated.curve_file": flags["simulated_curve"],
        "simulated.profile_file": flags["simulated_profile"],
        "batch.max_rows": flags["max_rows"],
        "worker.metrics_port": flags["metrics_port"],
        "worker.name": flags["name"],
        "log.format": flags["log_format"],
    }


def _show(settings: Settings, *, as_json: bool) -> None:
    entries = shown(settings)
    if as_json:
        click.echo(json.dumps({entry["env"]: entry["value"] for entry in entries.values()}, default=str))
        return
    for entry in entries.values():
        click.echo(f"{entry['env']}={'' if entry['value'] is None else entry['value']}")


def _children(asked: str, config: Path | None, flags: dict[str, Any], settings: Settings) -> list[list[str]]:
    """The command of each device's worker: this one's own, with a device, a name and a port of its own."""
    from darkroom.consumer.worker.devices import devices_of

    names = devices_of(asked)
    if asked == "all" and names == ["cpu"]:
        click.echo("No GPU was found: one worker on the CPU.", err=True)
    base_port = settings.worker.metrics_port
    if not names or (base_port and base_port + len(names) > PORTS):
        raise click.UsageError(f"--devices {asked!r} names no device, or more than there are ports above {base_port}.")
    given = [] if config is None else ["--config", str(config)]
    for flag, value in flags.items():
        if value is not None and flag not in ("device", "name", "metrics_port"):
            given += [f"--{flag.replace('_', '-')}", str(value)]
    children = []
    for number, name in enumerate(names):
        settings_of(config, {**_overrides(flags), "device": name})  # a name that is none ends here, with a sentence
        port = base_port + number if base_port else 0
        own = ["--device", name, "--name", f"{settings.worker.name}-{number}", "--metrics-port", str(port)]
        children.append([sys.executable, "-m", "darkroom", "serve", *given, *own])
    return children


async def _supervise(commands: list[list[str]], settings: Settings) -> int:
    from darkroom.consumer.worker.devices import Patience, Supervisor
    from darkroom.producer.logs import configure

    configure(settings.log, worker=settings.worker.name)
    supervisor = Supervisor(commands, Patience(drain_s=settings.worker.drain_s + DRAIN_MORE_S))
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, supervisor.end)
    return await supervisor.run()


async def run_worker(settings: Settings, make_worker: Callable[..., MadeWorker] | None = None) -> int:
    """Run until drained. Returns the exit code: 0 when all begun work was finished, 1 when not or when it failed.

    `make_worker` takes what `darkroom.consumer.worker.worker.Worker` takes, and makes that by default.
    """
    from darkroom.producer.logs import configure
    from darkroom.producer.tracing import recording

    configure(settings.log, worker=settings.worker.name)
    with recording("darkroom-worker"):
        return await _run_worker(settings, make_worker)


async def _run_worker(settings: Settings, make_worker: Callable[..., MadeWorker] | None) -> int:
    import structlog

    from darkroom.consumer.worker.driver import EngineGone
    from darkroom.consumer.worker.engines import make_engine
    from darkroom.consumer.worker.pod_cost import NoCluster
    from darkroom.consumer.worker.ports import BrokerGone, BrokerUnavailable
    from darkroom.consumer.worker.worker import Worker
    from darkroom.inference.types import ModelError
    from darkroom.producer.kafka.connection import KafkaUnavailable
    from darkroom.producer.kafka.rights_check import check_rights
    from darkroom.producer.kafka.topic_checks import warn_of_topics
    from darkroom.producer.kafka.topics import TopicRefused, ensure_topics
    from darkroom.producer.store.objects import StoreUnavailable
    from darkroom.producer.store.s3_objects import MinioObjects
    from darkroom.producer.tasks import TaskFailed, described
    from darkroom.schemas.errors import SettingsError
    from darkroom.schemas.rights import Role

    log = structlog.get_logger("darkroom.serve")
    objects: MinioObjects | None = None
    try:
        objects = MinioObjects(settings.s3)
        await check_rights(settings, Role.WORKER)
        await ensure_topics(settings)
        await warn_of_topics(settings)
        await objects.ensure_bucket(retention_days=settings.s3.retention_days)
        worker = (make_worker or Worker)(settings, make_engine(settings), objects)
        try:
            health = worker.serve_health()
        except OSError as error:
            click.echo(
                f"Error: port {settings.worker.metrics_port} on {settings.worker.metrics_host} cannot be used "
                f"({error.strerror}). Choose another with --metrics-port, or 0 for a free one.",
                err=True,
            )
            return 1
        log.info("health and metrics", host=settings.worker.metrics_host, port=health.port)
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, worker.drain)
        clean = await worker.run()
        health.close()
    except (
        SettingsError,
        KafkaUnavailable,
        TopicRefused,
        StoreUnavailable,
        BrokerUnavailable,
        ModelError,
        EngineGone,
        BrokerGone,
        NoCluster,
        TaskFailed,
    ) as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    except Exception as error:
        log.exception("the worker ended unexpectedly")
        said = described(error)
        click.echo(f"Error: The worker ended unexpectedly with {said}. The log has the traceback.", err=True)
        return 1
    finally:
        if objects is not None:
            objects.close()
    log.info("drained", clean=clean)
    return 0 if clean else 1
