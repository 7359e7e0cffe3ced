"""The password of a Kafka client, read anew for each of its connections where it stands in a file.

aiokafka 0.14 takes a password once and keeps it for as long as the client lives. A password that is changed would then
let nobody in again once the connections end: brokers close them at restarts and after `connections.max.reauth.ms`.
`darkroom.producer.kafka.broker_client` asks for it at each connection.
"""

from __future__ import annotations

from pydantic import SecretStr

__all__ = ["Password"]


class Password(str):
    """A password that works like any string and shows as asterisks where a client's arguments are printed."""

    _secret: SecretStr

    def __new__(cls, secret: SecretStr) -> Password:
        """Hold the secret as it is now."""
        password = super().__new__(cls, secret.get_secret_value())
        password._secret = secret
        return password

    def __repr__(self) -> str:
        return "'********'"

    def renewed(self) -> Password:
        """Return the password as it is by now."""
        return Password(self._secret)
