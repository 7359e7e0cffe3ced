"""The password of a Kafka client, read anew for each of its connections where it stands in a file.

aiokafka 0.14 takes a password once and keeps it for as long as the client lives. A password that is changed would then
let nobody in again once the connections end: brokers close them at restarts and after `connections.max.reauth.ms`.
"""

from __future__ import annotations

from typing import Any

from aiokafka.client import AIOKafkaClient
from pydantic import SecretStr

__all__ = ["Password", "renew_password"]


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


def renew_password(client: AIOKafkaClient) -> None:
    """Let a client that was made of `kafka_arguments` log in with the password as it is at each connection.

    aiokafka has no seam for this: the client hands its attribute on when it connects, so this one client gets a class
    in which the attribute is looked up. Nothing happens where it logs in otherwise.
    """
    if isinstance(client._sasl_plain_password, Password):
        client.__class__ = _Renewing


class _Renewing(AIOKafkaClient):  # type: ignore[misc]
    """Made by `renew_password` alone."""

    @property
    def _sasl_plain_password(self) -> Any:
        return self.__dict__["_sasl_plain_password"].renewed()
