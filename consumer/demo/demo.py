"""The demo: generation events through a real Kafka and a real S3 store, rendered by a worker of its own process.

Everything is what production runs: the embedded stack's servers, `darkroom serve` as a process, the client, the
audit. It ends well only when every request succeeded exactly once.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from PIL import Image, ImageDraw

from darkroom.consumer.audit.audit import AuditReport, audit
from darkroom.consumer.demo.requests import sample_requests
from darkroom.consumer.stack.stack import Stack
from darkroom.inference.pose.blazepose.detector import is_installed
from darkroom.producer.client.client import Client
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.producer.tasks import TaskSupervisor, run
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings import Settings, load_settings

READY_S_MAX = 180.0
"""How long the worker may take to load torch and its model, on a machine that does other things, too."""
FINISH_S_MAX = 300.0
"""How long the requests may take all together."""
DRAIN_S_MAX = 45.0
"""How long the worker may take to drain."""
THUMBNAIL = 128
"""Pixels of a picture's side on the contact sheet."""
PICTURE_BYTES_MAX = 32 * 1024 * 1024


class DemoError(Exception):
    """The demo could not be run to its end: what happened, and where to look."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Result of the demo."""

    completions: dict[str, Completion]
    audit: dict[str, Any]
    out: Path
    ok: bool


def run_demo(directory: Path, out: Path, say: Callable[[str], None]) -> DemoResult:
    """Start everything, send the samples, look at what comes back, and stop all that was started."""
    stack = Stack(directory)
    was_running = stack.status().running
    say("Starting Apache Kafka and an S3 server on loopback")
    environment = stack.up(say).environment
    try:
        environment = {**environment, **_signing(out, say)}
        settings = load_settings(environ={**os.environ, **environment})
        worker = _start_worker(environment, directory / "logs" / "demo-worker.log", say)
        try:
            completions = run(_send_and_wait(settings, say))
            out.mkdir(parents=True, exist_ok=True)
            run(_save(settings, completions, out))
        finally:
            _stop_worker(worker, say)
        report = run(_audit(settings))
        if settings.provenance.cert_file is not None:
            _name_signer(completions, out, say)
    finally:
        if not was_running:
            say("Stopping Kafka and the S3 server")
            stack.down()
    succeeded = all(one.status.value == "succeeded" for one in completions.values())
    ok = succeeded and report.is_clean and report.pending == 0
    return DemoResult(completions, report.as_dict(), out, ok=ok)


def _signing(out: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Return the settings of a certificate made for this run; none where the operator has one, or nothing can sign."""
    from darkroom.consumer.provenance.signing import is_installed as can_sign

    if not can_sign() or "DARKROOM_PROVENANCE__CERT_FILE" in os.environ:
        return {}
    from darkroom.consumer.provenance.trial_chain import write_trial_chain

    folder = out / "test-certificate"
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run's may have expired
    chain = write_trial_chain(folder)
    say(f"Made a certificate for signing pictures, a test's that nobody trusts, in {folder}")
    return {
        "DARKROOM_PROVENANCE__CERT_FILE": str(chain.chain.resolve()),
        "DARKROOM_PROVENANCE__KEY_FILE": str(chain.key.resolve()),
    }


def _name_signer(completions: dict[str, Completion], out: Path, say: Callable[[str], None]) -> None:
    signers = {one.provenance.signer for one in completions.values() if one.provenance is not None}
    if signers:
        shown = f"darkroom provenance verify {out}/PICTURE.png --trust {out}/test-certificate/authority.pem"
        say(f"Pictures are signed by {', '.join(sorted(signers))}: {shown}")


async def _audit(settings: Settings) -> AuditReport:
    are_signed: Callable[[bytes], bool] | None = None
    if settings.provenance.cert_file is not None:
        from darkroom.consumer.provenance.verifying import are_whole as are_signed
    async with MinioObjects(settings.s3) as objects:
        return await audit(settings, objects, are_signed=are_signed)


def _start_worker(environment: dict[str, str], log: Path, say: Callable[[str], None]) -> subprocess.Popen[bytes]:
    """A worker as a user would start one, ready to take requests."""
    say(f"Starting a worker with the built-in tiny model (its log: {log})")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "darkroom", "serve", "--metrics-port", "0", "--name", "demo-worker"],
            env={**os.environ, **environment},
            stdout=file,
            stderr=file,
        )
    deadline = time.monotonic() + READY_S_MAX
    started = time.monotonic()
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            raise DemoError(f"The worker ended at its start. Its log says why: {log}")
        if (port := _port_in(log)) is not None and _is_ready(port):
            say(f"The worker is ready after {time.monotonic() - started:.1f} s")
            return worker
        time.sleep(0.2)
    worker.kill()
    raise DemoError(f"The worker was not ready after {READY_S_MAX:.0f} s. Its log: {log}")


def _port_in(log: Path) -> int | None:
    for line in log.read_text(errors="replace").splitlines():
        if '"port"' in line:
            try:
                return int(json.loads(line)["port"])
            except (ValueError, KeyError):
                continue
    return None


def _is_ready(port: int) -> bool:
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", timeout=2.0, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


async def _send_and_wait(settings: Settings, say: Callable[[str], None]) -> dict[str, Completion]:
    """Send all samples, follow their progress, and wait for their completions."""
    requests = sample_requests(str(int(time.time())), with_photo=is_installed())
    async with Client(settings) as client:
        ids = await client.send(requests)
        say(f"Sent {len(ids)} generation events; waiting for their completions")
        async with TaskSupervisor() as tasks:
            tasks.keep("progress", lambda: _follow(client, set(ids), say))
            return await client.wait(ids, timeout_s=FINISH_S_MAX)


async def _follow(client: Client, ids: set[str], say: Callable[[str], None]) -> None:
    told: dict[str, int] = {}
    async for progress in client.progress():
        if progress.request_id not in ids:
            continue
        tenths = 10 * progress.steps_done // progress.steps_total
        if tenths // 5 > told.get(progress.request_id, 0):
            told[progress.request_id] = tenths // 5
            say(f"  {progress.request_id}: step {progress.steps_done} of {progress.steps_total}")


def _stop_worker(worker: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    say("Draining the worker")
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(DRAIN_S_MAX)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


async def _save(settings: Settings, completions: dict[str, Completion], out: Path) -> None:
    """Fetch the pictures and lay them out on one sheet."""
    pictures: list[tuple[str, Image.Image]] = []
    async with MinioObjects(settings.s3) as objects:
        for request_id, completion in sorted(completions.items()):
            for index, ref in enumerate(completion.images):
                content = await objects.get(ref.key, bucket=ref.bucket, bytes_max=PICTURE_BYTES_MAX)
                if content is None:
                    continue
                (out / f"{request_id}-{index}{Path(ref.key).suffix}").write_bytes(content)
                pictures.append((f"{request_id[-2:]}.{index}", Image.open(io.BytesIO(content)).convert("RGB")))
    contact_sheet(pictures).save(out / "contact-sheet.png")


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]], columns: int = 5) -> Image.Image:
    """The pictures in rows, each with its name under it."""
    rows = max(1, -(-len(pictures) // columns))
    cell_width, cell_height = THUMBNAIL + 8, THUMBNAIL + 24
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (name, picture) in enumerate(pictures):
        x, y = place % columns * cell_width + 4, place // columns * cell_height + 4
        scale = THUMBNAIL / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + THUMBNAIL + 2), name, fill="black")
    return sheet
