"""The supervisor of one worker a device, over small processes that end as a test wants it."""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkroom import main
from darkroom.consumer.cli.serve import _children, serve
from darkroom.consumer.worker.devices import Patience, Supervisor, devices_of
from darkroom.schemas.settings import load_settings

QUICK = Patience(backoff_s_min=0.01, backoff_s_max=0.02, drain_s=10.0)
WAIT_S = 20.0


def python(program: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


WAITING = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(sys.argv[1], "a") as file: file.write("started\\n")
while True: signal.pause()
"""
CRASHING_ONCE = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(sys.argv[1], "a") as file: file.write("started\\n")
if len(open(sys.argv[1]).readlines()) < 3: os.kill(os.getpid(), signal.SIGKILL)
while True: signal.pause()
"""
STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file: file.write(f"started\\n")
while True: signal.pause()
"""


async def until_started(*files: Path, times: int = 1) -> None:
    async with asyncio.timeout(WAIT_S):
        while not all(file.exists() and len(file.read_text().splitlines()) >= times for file in files):
            await asyncio.sleep(0.01)


async def test_the_word_to_end_reaches_every_process_and_is_waited_for(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    supervisor = Supervisor([python(WAITING, file) for file in files], QUICK)
    running = asyncio.create_task(supervisor.run())
    await until_started(*files)
    supervisor.end()
    assert await asyncio.wait_for(running, WAIT_S) == 0


async def test_a_crashed_process_is_started_again(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    supervisor = Supervisor([python(CRASHING_ONCE, file)], QUICK)
    running = asyncio.create_task(supervisor.run())
    await until_started(file, times=3)
    supervisor.end()
    # The third one may not have come to its waiting yet, and then SIGTERM ends it.
    assert await asyncio.wait_for(running, WAIT_S) in (0, 1)
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize(("status", "starts"), [(2, 1), (1, 3)])
async def test_a_process_that_cannot_start_ends_the_whole(tmp_path: Path, status: int, starts: int) -> None:
    file, other = tmp_path / "starts", tmp_path / "other"
    refusing = f"import sys; open(sys.argv[1], 'a').write('started\\n'); sys.exit({status})"
    supervisor = Supervisor([python(WAITING, other), python(refusing, file)], QUICK)
    assert await asyncio.wait_for(supervisor.run(), WAIT_S) == 1
    assert len(file.read_text().splitlines()) == starts


async def test_a_process_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    supervisor = Supervisor([python(STUBBORN, file)], Patience(drain_s=0.2))
    running = asyncio.create_task(supervisor.run())
    await until_started(file)
    (pid,) = (process.pid for process in supervisor._running.values())
    supervisor.end()
    assert await asyncio.wait_for(running, WAIT_S) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_being_told_to_end_while_waiting_for_a_restart_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    crashing = "import os, sys; open(sys.argv[1], 'a').write('started\\n'); os._exit(70)"
    supervisor = Supervisor([python(crashing, file)], Patience(backoff_s_min=60.0, backoff_s_max=60.0))
    running = asyncio.create_task(supervisor.run())
    await until_started(file)
    async with asyncio.timeout(WAIT_S):
        while supervisor._running:
            await asyncio.sleep(0.01)
    supervisor.end()
    assert await asyncio.wait_for(running, WAIT_S) == 0
    assert file.read_text() == "started\n"


def test_devices_are_a_list_or_all() -> None:
    assert devices_of("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    assert devices_of("all") == ["cpu"]


def test_each_worker_has_a_device_a_name_and_a_port_of_its_own(tmp_path: Path) -> None:
    own = {"config", "show_settings", "as_json", "devices"}
    flags: dict[str, Any] = dict.fromkeys({option.name for option in serve.params if option.name} - own)
    flags |= {"simulated_device": 5.0, "max_rows": 4}
    config = tmp_path / "settings.toml"
    config.write_text("")
    settings = load_settings(overrides={"worker.name": "gpu-box", "worker.metrics_port": 9500}, environ={})
    first, second = _children("cuda:0,cuda:1", config, flags, settings)
    assert first[3:6] == ["serve", "--config", str(config)]
    handed_on = dict(pairwise(first[6:-6]))
    assert (len(first), handed_on["--simulated-device"], handed_on["--max-rows"]) == (16, "5.0", "4")
    assert first[-6:] == ["--device", "cuda:0", "--name", "gpu-box-0", "--metrics-port", "9500"]
    assert second[-6:] == ["--device", "cuda:1", "--name", "gpu-box-1", "--metrics-port", "9501"]
    free = load_settings(overrides={"worker.metrics_port": 0}, environ={})
    assert [child[-1] for child in _children("cpu,cpu", None, flags, free)] == ["0", "0"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--devices", "cpu", "--device", "cpu"], 2, "exclude each other"),
        (["--devices", ","], 2, "names no device"),
        (["--devices", "cpu,cpu", "--metrics-port", "65535"], 2, "more than there are ports"),
        (["--devices", "cpu,gpu-one"], 1, "DARKROOM_DEVICE is 'gpu-one'"),
    ],
)
def test_devices_that_are_none_are_told_before_anything_starts(arguments: list[str], status: int, says: str) -> None:
    ended = CliRunner().invoke(main, ["serve", *arguments])
    assert ended.exit_code == status
    assert says in ended.output
