"""Fetches the jars of a version of Kafka with Maven, its command-line tools included, which the embedded one lacks."""

from __future__ import annotations

import subprocess
from pathlib import Path

FETCH_S_MAX = 600

_PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>darkroom.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


def jars_of(version: str, folder: Path) -> Path:
    """Return the folder with a version's jars, fetched into it where they are not there."""
    if not list(folder.glob(f"kafka-clients-{version}.jar")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(_PROJECT.format(version=version))
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        subprocess.run(command, cwd=folder, check=True, timeout=FETCH_S_MAX)
    return folder
