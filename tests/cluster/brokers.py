"""One or more Kafka brokers as processes, with whatever properties a test needs; each can be killed and started again.

The embedded stack is one broker as Darkroom runs it. These are clusters as other people run them: with rights, small
limits, several brokers and replicas.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psutil

from darkroom.consumer.stack.download import fetch_kafka
from darkroom.consumer.stack.java import find_java
from darkroom.consumer.stack.ports import LOOPBACK, free_ports
from darkroom.consumer.stack.settings import load_settings
from tests.cluster.certificates import Certificates

START_S_MAX: Final = 240.0
"""On a machine that does ten other things a broker takes a minute, and one that ended is noticed at once."""
STOP_S_MAX: Final = 60.0
POLL_S: Final = 0.1
HEAP_MB: Final = 256
APP, APP_PASSWORD = "app", "app-password"
SASL: Final = {
    # Brokers and administrators come by the plain listener, as ANONYMOUS; users log in and have what they are granted.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.{listener}.plain.sasl.jaas.config": (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{APP}="{APP_PASSWORD}";'
    ),
}
TLS: Final = {
    # A client has to show a certificate and to log in as well: the log-in is who it is.
    "ssl.keystore.type": "PEM",
    "ssl.truststore.type": "PEM",
    "listener.name.sasl_ssl.ssl.client.auth": "required",
}
AUTHORIZED: Final = {
    # Everybody is ANONYMOUS on a plain listener. Brokers are that too, so a test denies rights one by one.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:admin",
    "allow.everyone.if.no.acl.found": "true",
}


class Brokers:
    """A KRaft cluster in a folder of its own; every node is broker and controller. A context manager."""

    def __init__(
        self,
        folder: Path,
        count: int = 1,
        properties: Mapping[str, str] | None = None,
        *,
        users_log_in: bool = False,
        certificates: Certificates | None = None,
        jars: Path | None = None,
        jvm_options: Sequence[str] = (),
    ) -> None:
        """`jars` is a folder with another version of Kafka than the embedded one. Users come by TLS where there are
        `certificates`."""
        self._folder = folder
        self._users_log_in = users_log_in
        self._certificates = certificates
        self.users_protocol = "SASL_PLAINTEXT" if certificates is None else "SASL_SSL"
        """What the listener for users who log in speaks."""
        self._settings = load_settings()
        self._java = find_java(self._settings.java)
        self._jars = jars or fetch_kafka(self._settings, lambda _line: None)
        ports = free_ports(3 * count)
        self._clients, self._controllers, self._users = ports[:count], ports[count : 2 * count], ports[2 * count :]
        self._properties = dict(properties or {})
        self._jvm_options = jvm_options
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.count = count

    @property
    def bootstrap_servers(self) -> str:
        """Every broker's address."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self._clients)

    @property
    def users_bootstrap_servers(self) -> str:
        """Every broker's address for users who log in."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self._users)

    def __enter__(self) -> Self:
        try:
            for node in range(self.count):
                self._format(node)
                self.start(node)
            for node in range(self.count):
                self.wait_until_ready(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(STOP_S_MAX)

    def start(self, node: int) -> None:
        """Start a node; `wait_until_ready` tells when it answers."""
        folder = self._folder / str(node)
        if self._certificates is not None:
            self._certificates.started(node)
        with (folder / "server.out").open("ab") as out:
            self._processes[node] = subprocess.Popen(
                [*self.java(), *self._jvm_options, "kafka.Kafka", str(folder / "server.properties")],
                stdout=out,
                stderr=out,
            )

    def wait_until_ready(self, node: int) -> None:
        """Wait until the node names all live brokers in its metadata."""
        deadline = time.monotonic() + START_S_MAX
        while self._brokers_seen_by(node) < 1:
            if self._processes[node].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / str(node) / "server.out").read_text()[-4000:])
            time.sleep(POLL_S)

    def stop(self, node: int) -> None:
        """Stop a node cleanly: it hands its partitions over."""
        self._processes[node].terminate()
        self._processes[node].wait(STOP_S_MAX)

    def kill(self, node: int) -> None:
        """Kill a node."""
        self._processes[node].kill()
        self._processes[node].wait(STOP_S_MAX)

    @contextlib.contextmanager
    def frozen(self, node: int) -> Iterator[None]:
        """Freeze a node's process while the block runs."""
        process = psutil.Process(self._processes[node].pid)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def java(self, heap_mb: int = HEAP_MB, jars: Path | None = None) -> list[str]:
        """Return the command that runs a class of Kafka's, or of a folder with other jars."""
        flags = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", f"-Xmx{heap_mb}m")
        return [str(self._java), *flags, "-cp", f"{jars or self._jars}/*"]

    def _format(self, node: int) -> None:
        folder = self._folder / str(node)
        folder.mkdir(parents=True)
        voters = ",".join(f"{one}@{LOOPBACK}:{port}" for one, port in enumerate(self._controllers))
        advertised = f"PLAINTEXT://{LOOPBACK}:{self._clients[node]}"
        if self._users_log_in:
            advertised += f",{self.users_protocol}://{LOOPBACK}:{self._users[node]}"
        replicas = str(self.count)
        synced = str(max(1, self.count - 1))
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": voters,
            "listeners": f"{advertised},CONTROLLER://{LOOPBACK}:{self._controllers[node]}",
            "advertised.listeners": advertised,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"
            ),
            **self._security(node),
            "log.dirs": str(folder / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": synced,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": synced,
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            "log.cleaner.dedupe.buffer.size": "16777216",
            **self._properties,
        }
        path = folder / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        tool = ("kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", str(path))
        subprocess.run([*self.java(), *tool], check=True, capture_output=True, timeout=START_S_MAX)

    def _security(self, node: int) -> dict[str, str]:
        if not self._users_log_in:
            return {}
        listener = self.users_protocol.lower()
        properties = {name.replace("{listener}", listener): value for name, value in SASL.items()}
        if self._certificates is None:
            return properties
        return {
            **properties,
            **TLS,
            "ssl.keystore.location": str(self._certificates.servers[node]),
            "ssl.truststore.location": str(self._certificates.clients_authority),
        }

    def _brokers_seen_by(self, node: int) -> int:
        from aiokafka.protocol.metadata import MetadataRequest_v1

        request = MetadataRequest_v1([])
        header = request.build_request_header(correlation_id=1, client_id="test")
        body = header.encode() + request.encode()
        try:
            with socket.create_connection((LOOPBACK, self._clients[node]), timeout=1) as connection:
                connection.sendall(struct.pack(">i", len(body)) + body)
                answer = connection.makefile("rb")
                (length,) = struct.unpack(">i", answer.read(4))
                return len(request.RESPONSE_TYPE.decode(answer.read(length)[4:]).brokers)
        except (OSError, ValueError, struct.error):
            return 0
