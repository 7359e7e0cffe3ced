"""Apache Kafka as one process that is broker and controller (KRaft), small and quick to start."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.download import fetch_kafka
from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.jars import KAFKA_VERSION
from darkroom.consumer.stack.java import find_java
from darkroom.consumer.stack.lock import held
from darkroom.consumer.stack.ports import LOOPBACK, free_ports
from darkroom.consumer.stack.server import Ports, Report
from darkroom.consumer.stack.settings import StackSettings
from darkroom.consumer.stack.tls import TlsListeners

_ANSWER_LIMIT_S: Final = 1.0
_FORMAT_LIMIT_S: Final = 60.0
_ANSWER_BYTES_MAX: Final = 1024 * 1024
_LOG_BYTES_MAX: Final = 8 * 1024 * 1024

# The Java code compiler that starts fastest and the collector with the fewest threads: ready in 2.3 s instead of 3.6 s
# on two idle cores, and less in the way of what is tested.
_JVM_FLAGS: Final = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{kafka},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{kafka}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}

# Topics are made on purpose, with the partitions they are meant to have.
auto.create.topics.enable=false
num.partitions=12
message.max.bytes=2097152

# One broker: every internal topic has one copy, and few partitions, since each is made at start.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# A group's first member need not wait for others, and tests may use sessions of a second.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
# The transactions of a dead producer are aborted within a second of their timeout, instead of ten.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000

# After a crash the controller admits the broker again only when its old session is over: 2 s instead of 9.
broker.heartbeat.interval.ms=400
broker.session.timeout.ms=2000

# Threads and buffers for one machine with few cores.
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.index.size.max.bytes=2097152
"""

_LOGGING: Final = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log}
appender.file.filePattern = {log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %-5p %m (%c{{1}})%n%throwable
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = {log_bytes_max}
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = file
"""


class KafkaServer:
    """Implements `Server`. The data is in `folder/data`, the configuration beside it."""

    title = "Kafka"
    version = KAFKA_VERSION
    stop_limit_s = float("inf")
    """A clean stop is quick, and saves the next start the recovery."""

    def __init__(self, folder: Path, log: Path, settings: StackSettings, tls: TlsListeners | None = None) -> None:
        self.folder = folder
        self.marker = f"-Ddarkroom.stack={folder}"
        self._log = log
        self._settings = settings
        self._tls = tls
        self._java: Path | None = None
        self._jars: Path | None = None

    def choose_ports(self) -> dict[str, int]:
        """One for clients, one for the controller, and one for each listener with TLS."""
        names = ("kafka", "controller", *(() if self._tls is None else self._tls.kafka_ports))
        return dict(zip(names, free_ports(len(names)), strict=True))

    def address(self, ports: Ports) -> str:
        """The bootstrap server."""
        return f"{LOOPBACK}:{ports['kafka']}"

    def prepare(self, report: Report) -> None:
        """Find Java, fetch Kafka, format the folder where it is new."""
        self._java = find_java(self._settings.java)
        self._jars = fetch_kafka(self._settings, report)
        if not (self.folder / "data").exists():
            if self._tls is None:
                _format(self.folder, _template(self._java, self._jars))
            else:
                _format_with_tool(self._java, self._jars, self.folder / "data", self._tls.format_options())

    def command(self, ports: Ports) -> list[str]:
        """Java with Kafka's main class, on these ports."""
        properties = self.folder / "server.properties"
        more = "" if self._tls is None else self._tls.kafka_properties(LOOPBACK, ports)
        properties.write_text(
            _PROPERTIES.format(host=LOOPBACK, data=_escaped(self.folder / "data"), **ports) + more, encoding="utf-8"
        )
        logging = self.folder / "log4j2.properties"
        logging.write_text(_LOGGING.format(log=_escaped(self._log), log_bytes_max=_LOG_BYTES_MAX), encoding="utf-8")
        if self._java is None or self._jars is None:
            raise RuntimeError("prepare() comes before command()")
        scratch = self.folder / "tmp"  # native compression libraries are unpacked there, and left there by a crash
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        return [
            str(self._java),
            f"-Xmx{self._settings.kafka_heap_mb}m",
            *_JVM_FLAGS,
            f"-Djava.io.tmpdir={scratch}",
            f"-XX:ErrorFile={self.folder}/java-crash-%p.log",
            f"-Dlog4j2.configurationFile={logging}",
            self.marker,
            "-cp",
            f"{self._jars}/*",
            "kafka.Kafka",
            str(properties),
        ]

    def environment(self) -> dict[str, str]:
        """Nothing of the user's: a JAVA_TOOL_OPTIONS or CLASSPATH meant for others would change what runs."""
        return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)}

    def is_ready(self, ports: Ports) -> bool:
        """Return whether the broker names itself in its metadata: it does so once it takes records."""
        from aiokafka.protocol.metadata import MetadataRequest_v1

        request = MetadataRequest_v1([])
        header = request.build_request_header(correlation_id=1, client_id="darkroom-up")
        body = header.encode() + request.encode()
        try:
            with socket.create_connection((LOOPBACK, ports["kafka"]), timeout=_ANSWER_LIMIT_S) as connection:
                connection.sendall(struct.pack(">i", len(body)) + body)
                answer = connection.makefile("rb")
                (length,) = struct.unpack(">i", answer.read(4))
                if not 4 <= length <= _ANSWER_BYTES_MAX:
                    return False
                metadata = request.RESPONSE_TYPE.decode(answer.read(length)[4:])  # after the correlation id
        except (OSError, ValueError, struct.error):
            return False
        return any(port == ports["kafka"] for _node, _host, port, _rack in metadata.brokers)

    def tidy(self, ports: Ports) -> None:
        """Kafka keeps to its folder."""


def _escaped(path: Path) -> str:
    """A path as Java's properties files want it."""
    return str(path).replace("\\", "\\\\")


def _format(folder: Path, template: Path) -> None:
    """Make `folder/data` what Kafka's own formatting would make it, with ids of its own. Atomic."""
    part = Path(tempfile.mkdtemp(prefix=".data-", dir=folder))
    shutil.copy(template / "bootstrap.checkpoint", part)
    properties = (template / "meta.properties").read_text(encoding="utf-8")
    for name in ("cluster.id", "directory.id"):
        properties = re.sub(rf"(?m)^{re.escape(name)}=.*$", f"{name}={_kafka_id()}", properties)
    (part / "meta.properties").write_text(properties, encoding="utf-8")
    part.rename(folder / "data")


def _template(java: Path, jars: Path) -> Path:
    """A folder that Kafka's formatting tool has made, once for all stacks: the tool takes a second of a cold JVM.

    What it writes depends on Kafka's version alone, but for the two ids. Raises `StackError`.
    """
    template = jars / "formatted"
    with held(jars / "lock", limit_s=2 * _FORMAT_LIMIT_S, activity="Formatting Kafka's folder"):
        if template.is_dir():
            return template
        _format_with_tool(java, jars, template)
    return template


def _format_with_tool(java: Path, jars: Path, target: Path, options: Sequence[str] = ()) -> None:
    """Have Kafka's own tool make the folder `target`. Atomic. Raises `StackError`."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as part:
        data, properties = Path(part) / "data", Path(part) / "server.properties"
        properties.write_text(
            _PROPERTIES.format(host=LOOPBACK, data=_escaped(data), kafka=1, controller=2), encoding="utf-8"
        )
        tool = ("kafka.tools.StorageTool", "format", "-t", _kafka_id(), "-c", str(properties), *options)
        try:
            done = subprocess.run(  # noqa: S603 - the command is ours
                [java, *_JVM_FLAGS, "-cp", f"{jars}/*", *tool],
                capture_output=True,
                text=True,
                timeout=_FORMAT_LIMIT_S,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            # The exception's own text has the command in it, users' passwords included.
            said = error.strerror if isinstance(error, OSError) else f"not done after {_FORMAT_LIMIT_S:.0f} s"
            raise StackError(f"Kafka's storage tool does not run with {java}: {said}. Try another Java.") from None
        if done.returncode != 0:
            raise StackError(
                f"Kafka's storage tool failed with {java}. Remove {jars} to fetch Kafka anew, or set "
                f"DARKROOM_STACK_JAVA to another Java. It said:\n{(done.stdout + done.stderr)[-2000:]}"
            )
        data.rename(target)


def _kafka_id() -> str:
    """A random id as Kafka writes them: 16 bytes in URL-safe Base64; it refuses those that begin with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text
