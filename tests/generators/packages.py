"""The generators and what their clients need to compile, by name and version, fetched with the ordinary clients."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NODE: Final = {
    "@asyncapi/modelina": "5.10.1",
    "quicktype": "26.0.0",
    "openapi-typescript": "7.13.0",
    "typescript": "5.9.3",
    "@types/node": "20.19.0",
}
PYTHON: Final = {
    "datamodel-code-generator": "0.89.0",
    "openapi-python-client": "0.29.1",
    "openapi-generator-cli": "7.26.0",
    "httpx": "0.28.1",
    "attrs": "25.4.0",
    "urllib3": "2.6.3",
    "python-dateutil": "2.9.0.post0",
}
JAVA: Final = (
    "com.fasterxml.jackson.core:jackson-databind:2.21.6",
    "com.fasterxml.jackson.datatype:jackson-datatype-jsr310:2.21.6",
    "org.openapitools:jackson-databind-nullable:0.2.12",
    "jakarta.annotation:jakarta.annotation-api:1.3.5",
    "com.google.code.findbugs:jsr305:3.0.2",
    "org.apache.httpcomponents:httpmime:4.5.13",
)
"""What the generators' own build files ask for, Jackson in one version for all."""
NEEDED: Final = ("node", "npm", "javac", "java", "mvn")
STEP_S_MAX: Final = 600
"""How long one step may take: the first npm or Maven install on a slow connection is the longest."""


class StepFailedError(Exception):
    """A step of a proof that did not end well: what it was and the end of what it said."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the installed generators are."""

    node: Path
    """The folder with `node_modules`."""
    python: Path
    """The interpreter of a virtual environment of their own."""
    jars: Path

    @property
    def class_path(self) -> str:
        """The jars for javac and java."""
        return f"{self.jars}/*"

    def node_tool(self, name: str) -> list[str]:
        """The command line of a Node program."""
        return ["node", str(self.node / "node_modules" / ".bin" / name)]

    def python_tool(self, name: str) -> list[str]:
        """The command line of a program of the virtual environment."""
        return [str(self.python.parent / name)]


def step(command: Sequence[str], folder: Path) -> str:
    """Run one step in a folder and return what it printed. Raise `StepFailedError`."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=STEP_S_MAX, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise StepFailedError(f"{command[0]} took more than {STEP_S_MAX} s") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-1500:]
        raise StepFailedError(f"{' '.join(command[:4])} ended with {done.returncode}: {said}")
    return done.stdout


def missing() -> list[str]:
    """Return the programs that have to be there and are not."""
    return [name for name in NEEDED if shutil.which(name) is None]


def install(folder: Path) -> Tools:
    """Install everything below a folder, or take it as it was left there. Raise `StepFailedError`."""
    return Tools(_node(folder / "node"), _python(folder / "python"), _jars(folder / "java"))


def _node(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.dumps({"name": "generators", "private": True, "type": "module", "dependencies": NODE}, indent=1)
    manifest = folder / "package.json"
    if not manifest.is_file() or manifest.read_text(encoding="utf-8") != wanted:
        (folder / "package-lock.json").unlink(missing_ok=True)
        manifest.write_text(wanted, encoding="utf-8")
        try:
            step(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
        except StepFailedError:
            manifest.unlink()
            raise
    return folder


def _python(folder: Path) -> Path:
    interpreter = folder / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in PYTHON.items()]
    note = folder / "installed.json"
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != wanted:
        step([sys.executable, "-m", "venv", "--clear", str(folder)], Path.cwd())
        step([str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], folder)
        note.write_text(json.dumps(wanted), encoding="utf-8")
    return interpreter


def _jars(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *coordinates.split(":")
        )
        for coordinates in JAVA
    )
    project = (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>none</groupId>'
        f"<artifactId>generators</artifactId><version>1</version><dependencies>{wanted}</dependencies></project>"
    )
    manifest, jars = folder / "pom.xml", folder / "jars"
    if not manifest.is_file() or manifest.read_text(encoding="utf-8") != project or not any(jars.glob("*.jar")):
        shutil.rmtree(jars, ignore_errors=True)
        manifest.write_text(project, encoding="utf-8")
        step(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={jars}"], folder)
    return jars
