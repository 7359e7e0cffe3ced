"""Prints the list in `jars.py` for another version of Kafka: `python -m darkroom.consumer.stack.relock 4.3.1`."""

from __future__ import annotations

import base64
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.jars import Jar
from darkroom.consumer.stack.settings import StackSettings, load_settings, remote_repositories

_ANSWER_LIMIT_S: Final = 30


def relock(version: str, settings: StackSettings) -> list[Jar]:
    """The jars of a Kafka version, sorted: the broker with all that it needs, and the binding of its logs to log4j.

    The digests are of what the repository gives now: look at what changed before it goes into the list. Raises
    `StackError`.
    """
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(
            repo_cache=Path(folder),
            remote_repos=remote_repositories(settings.maven_url),
            timeout=_ANSWER_LIMIT_S,
        )

        def resolved(coordinates: str) -> list[Jar]:
            # One at a time: of several, each one's dependency management is applied to all, and log4j's would give
            # the broker an older release of Kafka's own client.
            inputs, needed = context.resolver.resolve([context.create_dependency(coordinates)])
            return [_jar(each.artifact) for each in (*inputs, *needed)]

        try:
            jars = resolved(f"org.apache.kafka:kafka_2.13:{version}")
            versions = {artifact: at for _, artifact, at in (jar.coordinates.split(":") for jar in jars)}
            binding = "log4j-slf4j-impl" if versions["slf4j-api"].startswith("1.") else "log4j-slf4j2-impl"
            known = {jar.coordinates.rpartition(":")[0] for jar in jars}
            jars += [
                jar
                for jar in resolved(f"org.apache.logging.log4j:{binding}:{versions['log4j-core']}")
                if jar.coordinates.rpartition(":")[0] not in known
            ]
        except (OSError, RuntimeError, KeyError) as error:
            raise StackError(
                f"Kafka {version} cannot be resolved by Maven: {error}. Check version and network."
            ) from error
    return sorted(jars)


def _jar(artifact: Any) -> Jar:
    digest = hashlib.sha256(Path(artifact.resolve()).read_bytes()).digest()
    coordinates = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
    return Jar(coordinates, base64.b64encode(digest).decode())


if __name__ == "__main__":
    for line in relock(sys.argv[1], load_settings()):
        print(*line)
