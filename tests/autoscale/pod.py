"""One pod as a process of this machine: started, probed, asked to stop, killed when its time is up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3

from tests.autoscale import pod_spec
from tests.autoscale.pod_spec import Lookup, Place, Spec, Token
from tests.autoscale.probes import Name, Probes

RESTART_S: Final = 1.0
"""From a container's end to its next start; doubled with each, as kubelets do from 10 s on."""
RESTART_S_MAX: Final = 30.0
ENVIRONMENT: Final = "environment.json"
UNSTARTABLE: Final = 128
"""The exit code that container runtimes give what could not be started."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container has of its image."""

    entrypoint: Sequence[str]
    environment: Mapping[str, str]
    """And of its node: what is there before the pod says anything."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a pod that was deleted went."""

    pod: str
    asked_at: float
    """SIGTERM, by the wall clock; 0 where nothing ran."""
    ended_at: float
    exit_code: int | None
    """Negative: the signal that ended it. None where nothing ran."""
    killed: bool
    """The grace period was over."""


class Pod:
    """A pod's one container, from its first start to its end.

    All times that methods take are of one steady clock; those that can be read are of the wall clock.
    """

    def __init__(self, manifest: Spec, folder: Path, address: str, image: Image, probing: Executor) -> None:
        """`folder` is made. Raises `Unsupported` where the pod has more than one container."""
        self.manifest = manifest
        self.name: str = manifest["metadata"]["name"]
        spec = manifest["spec"]
        if len(spec["containers"]) != 1 or spec.get("initContainers"):
            raise pod_spec.Unsupported("a pod is one process here: it has several containers")
        self.container: Spec = spec["containers"][0]
        self.address = address
        self.restarts = 0
        self.last_exit: int | None = None
        self.started_at: float | None = None
        """Of the container that runs or ran last."""
        self.problem: str | None = None
        """Why it was not started."""
        self._folder = folder
        self._image = image
        self._probing = probing
        self._asking: dict[Name, Future[bool]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._probes = Probes({}, started=False, ready=False)
        self._start_at = 0.0
        self._stop: tuple[float, float] | None = None
        self._term_at: float | None = None
        self._asked_at = 0.0
        self._killed = False
        self._http = urllib3.PoolManager(retries=False)
        folder.mkdir(parents=True)

    @property
    def log(self) -> Path:
        """What the container prints, over all its starts."""
        return self._folder / "log"

    @property
    def environment_file(self) -> Path:
        """What its process was started with, as JSON: for a command that is to run as if inside it."""
        return self._folder / ENVIRONMENT

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it runs and its probes say so."""
        return self.is_running and self._probes.ready

    @property
    def has_started(self) -> bool:
        """Whether its startup probe has succeeded."""
        return self.is_running and self._probes.started

    @property
    def is_over(self) -> bool:
        """Whether it ended and will not be started again."""
        if self.is_running or self.last_exit is None:
            return False
        policy = self.manifest["spec"].get("restartPolicy", "Always")
        return policy == "Never" or (policy == "OnFailure" and self.last_exit == 0)

    def advance(self, now: float, lookup: Lookup, token: Token) -> None:
        """Start it, take note of its end, probe it: whatever is due. Not for a pod that is to stop."""
        if self._process is not None and self._process.poll() is not None:
            self._take_end(now)
        if self._process is None and not self.is_over and now >= self._start_at:
            self._start(now, lookup, token)
        if self.is_running:
            self._probe(now)
            if self._probes.must_die:
                self.kill()

    def stop(self, now: float) -> Ending | None:
        """One look at a pod that is to go: preStop, SIGTERM, and SIGKILL when the grace period is over.

        Returns how it went once it is gone.
        """
        if self._stop is None:
            sleep = self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            grace = self.manifest["metadata"].get("deletionGracePeriodSeconds", 30)
            self._stop = (now + min(sleep, grace), now + grace)
        term_at, kill_at = self._stop
        if self._process is not None and self.is_running:
            if self._term_at is None and now >= term_at:
                self._term_at, self._asked_at = now, time.time()
                self._process.send_signal(signal.SIGTERM)
            if now >= kill_at and not self._killed:
                self._killed = True
                self.kill()
            return None
        code = self._process.returncode if self._process is not None else None
        return Ending(self.name, self._asked_at, time.time(), code, self._killed)

    def refresh(self, lookup: Lookup) -> None:
        """Write what changed of its Secrets and ConfigMaps into its volumes, each file whole, as kubelets do."""
        if not self.is_running:
            return
        for volume in self.manifest["spec"].get("volumes", []):
            folder = self._folder / "volumes" / volume["name"]
            if not folder.is_dir() or not volume.keys() & {"secret", "configMap"}:
                continue
            try:
                files = pod_spec.files_of(self.manifest, volume, lookup, _no_token)
            except pod_spec.Unsupported:  # it was deleted meanwhile: what is mounted stays
                continue
            for path, text in files.items():
                file = folder / path
                if not file.exists() or file.read_text() != text:
                    part = folder / f".{path}.part"
                    part.write_text(text)
                    part.replace(file)

    def kill(self) -> None:
        """SIGKILL to it and whatever it started."""
        if self._process is not None and self.is_running:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _take_end(self, now: float) -> None:
        assert self._process is not None
        self.last_exit = self._process.returncode
        self._process = None
        if not self.is_over:
            self._start_at = now + min(RESTART_S * 2**self.restarts, RESTART_S_MAX)
            self.restarts += 1

    def _probe(self, now: float) -> None:
        for name, asked in list(self._asking.items()):
            if asked.done():
                del self._asking[name]
                self._probes.told(name, asked.result(), now)
        for name in self._probes.due(now):
            if name not in self._asking:
                self._asking[name] = self._probing.submit(self._ask, name)

    def _start(self, now: float, lookup: Lookup, token: Token) -> None:
        try:
            place = Place(self.address, self._mounted(lookup, token))
            variables = {
                **self._image.environment,
                **pod_spec.environment(self.manifest, self.container, place, lookup),
            }
            words = pod_spec.command(self.container, self._image.entrypoint, place, variables)
            self.environment_file.write_text(json.dumps(variables))
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    words,
                    env=variables,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except (pod_spec.Unsupported, OSError) as error:
            self.problem, self._start_at = str(error), now + RESTART_S
            return
        self.problem = None
        self.started_at = time.time()
        self._probes = Probes.of(self.container, now)
        self._asking.clear()  # answers of the one before

    def _mounted(self, lookup: Lookup, token: Token) -> dict[str, Path]:
        """The pod's volumes as folders, by mount path. An empty folder keeps what it has over restarts."""
        volumes = {volume["name"]: volume for volume in self.manifest["spec"].get("volumes", [])}
        mounts = {}
        for mount in self.container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            folder = self._folder / "volumes" / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for path, text in pod_spec.files_of(self.manifest, volume, lookup, token).items():
                (folder / path).write_text(text)
            mounts[mount["mountPath"]] = folder
        return mounts

    def _ask(self, name: Name) -> bool:
        spec = self.container[f"{name}Probe"]
        get = spec["httpGet"]
        try:
            port = pod_spec.port_of(self.container, get["port"])
            answer = self._http.request(
                "GET", f"http://{self.address}:{port}{get.get('path', '/')}", timeout=spec.get("timeoutSeconds", 1)
            )
        except (urllib3.exceptions.HTTPError, pod_spec.Unsupported):
            return False
        return 200 <= answer.status < 400


def _no_token(_source: Spec) -> str:
    raise pod_spec.Unsupported("tokens are not written anew")
