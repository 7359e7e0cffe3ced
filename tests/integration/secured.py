"""An embedded stack that is reached over TLS, the ways to be let in, and a search for secrets in what was said."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from darkroom.consumer.stack import Stack, TlsListeners
from darkroom.consumer.stack.tls import S3_HTTPS, SASL_SSL, SSL
from tests.integration.certificates import Authority

HOST = "127.0.0.1"
USER = "alice"
WAYS_IN = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "certificate")


class Secured:
    """The stack with its certificates. Close it when done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = f"pw-{secrets.token_hex(12)}"
        self.authority = Authority(folder, "authority")
        self.client = self.authority.identity("client")
        self.locked_client = self.authority.identity("locked-client", password="key-password")
        self.other_authority = Authority(folder, "other-authority")
        self.stranger = self.other_authority.identity("stranger")
        listeners = TlsListeners(
            self.authority.identity("servers", address=HOST), self.authority.certificate, {USER: self.password}
        )
        self.stack = Stack(folder / "stack", tls=listeners)
        try:
            state = self.stack.up()
        except BaseException:
            self.close()
            raise
        self.access_key, self.secret_key = state.credentials.access_key, state.credentials.secret_key
        self._kafka, self._s3 = state.processes["kafka"].ports, state.processes["s3"].ports

    def close(self) -> None:
        """Stop the servers."""
        self.stack.down()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody may ever read."""
        return (self.password, self.secret_key, self.access_key)

    def environment(self, way_in: str, **changes: str | None) -> dict[str, str]:
        """The variables of a client that is let in, with `changes` to them; None leaves one out.

        `KAFKA__...` and `S3__...` are the changes' names.
        """
        variables: dict[str, str | None] = {
            "S3__ENDPOINT": self.s3(),
            "S3__CA_FILE": str(self.authority.certificate),
            "S3__ACCESS_KEY": self.access_key,
            "S3__SECRET_KEY": self.secret_key,
            "KAFKA__SSL_CAFILE": str(self.authority.certificate),
            "KAFKA__REQUEST_TIMEOUT_MS": "10000",
            "SIMULATED__STEP_MS": "0",
            "TOPICS__REQUESTS_PARTITIONS": "2",
            "TOPICS__COMPLETIONS_PARTITIONS": "1",
            "LOG__LEVEL": "debug",
        }
        if way_in == "certificate":
            variables |= {
                "KAFKA__BOOTSTRAP_SERVERS": self.kafka(SSL),
                "KAFKA__SECURITY_PROTOCOL": "SSL",
                "KAFKA__SSL_CERTFILE": str(self.client),
                "KAFKA__SSL_KEYFILE": str(self.client),
            }
        else:
            variables |= {
                "KAFKA__BOOTSTRAP_SERVERS": self.kafka(SASL_SSL),
                "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA__SASL_MECHANISM": way_in,
                "KAFKA__SASL_USERNAME": USER,
                "KAFKA__SASL_PASSWORD": self.password,
            }
        return {f"DARKROOM_{name}": value for name, value in (variables | changes).items() if value is not None}

    def kafka(self, listener: str, host: str = HOST) -> str:
        """The bootstrap server of a listener, by one of the host's names."""
        return f"{host}:{self._kafka[listener]}"

    def s3(self, host: str = HOST) -> str:
        """The S3 endpoint over TLS, by one of the host's names."""
        return f"https://{host}:{self._s3[S3_HTTPS]}"

    def secret_files(self, environment: dict[str, str]) -> dict[str, str]:
        """The same variables with each secret in a file of its own."""
        moved = {}
        for name, value in environment.items():
            if value in self.secrets:
                file = self.folder / name
                file.write_text(f"{value}\n")
                file.chmod(0o600)
                moved[f"{name}_FILE"] = str(file)
            else:
                moved[name] = value
        return moved


def found_in(text: str, wanted: Iterable[str]) -> list[str]:
    """Which of these secrets a text has, as they are, in Base64 wherever they begin in it, in hex, or in an address."""
    return [secret for secret in wanted if any(form in text for form in _forms(secret))]


def _forms(secret: str) -> set[str]:
    encoded = secret.encode()
    # Within Base64 a text looks different by where it begins; its outermost characters mix with what is around it.
    shifted = {base64.b64encode(b"\0" * shift + encoded).decode()[4:-4] for shift in range(3)}
    return {secret, encoded.hex(), quote(secret, safe=""), *shifted}
