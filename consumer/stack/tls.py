"""Listeners of the embedded servers for TLS: Kafka on two more ports, S3 on one more.

The plain listeners stay, for the broker itself and for whoever watches it. So whether a client's TLS and its log-in
work can be tried on the real servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from darkroom.consumer.stack.server import Ports

SASL_SSL: Final = "sasl_ssl"
"""The name of Kafka's port for those who log in with a password, over TLS."""
SSL: Final = "ssl"
"""The name of Kafka's port for those who show a certificate."""
S3_HTTPS: Final = "s3.port.https"
"""The name of the S3 server's port with TLS."""

_SCRAM: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_MODULES: Final = "org.apache.kafka.common.security"

# Names that stand above as well are said again: Java's properties take the last one.
_PROPERTIES: Final = """
listeners=PLAINTEXT://{host}:{kafka},CONTROLLER://{host}:{controller},SASL_SSL://{host}:{sasl_ssl},SSL://{host}:{ssl}
advertised.listeners=PLAINTEXT://{host}:{kafka},SASL_SSL://{host}:{sasl_ssl},SSL://{host}:{ssl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location={identity}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required{users};
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;
"""


@dataclass(frozen=True, slots=True)
class TlsListeners:
    """For a folder of its own, from its first `up` on: users are made when the folder is.

    The listeners' ports are in `StackState.processes`, by the names above.
    """

    kafka_ports: ClassVar[tuple[str, ...]] = (SASL_SSL, SSL)

    identity: Path
    """PEM: the servers' key (PKCS 8, no password), then their certificate."""
    authority: Path
    """PEM: who signs the certificates of clients that Kafka lets in."""
    users: Mapping[str, str] = field(repr=False)
    """Kafka's users and their passwords, for PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512. Of A-Z a-z 0-9 - and _."""

    def kafka_properties(self, host: str, ports: Ports) -> str:
        """Return the properties to add to the broker's."""
        users = "".join(f' user_{name}="{password}"' for name, password in self.users.items())
        return _PROPERTIES.format(
            host=host, identity=self.identity, authority=self.authority, modules=_MODULES, users=users, **ports
        )

    def format_options(self) -> list[str]:
        """Return the options for Kafka's formatting tool, so that the users are there from the start."""
        return [
            option
            for name, password in self.users.items()
            for mechanism in _SCRAM
            for option in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]

    def s3_options(self) -> list[str]:
        """Return the options to add to the S3 server's command line."""
        return [f"-s3.cert.file={self.identity}", f"-s3.key.file={self.identity}"]
