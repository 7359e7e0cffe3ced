"""How every Kafka client of this product reaches its broker, and the one error for a broker that is not there."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from schemas.errors import SettingsError

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings


class KafkaUnavailable(Exception):  # noqa: N818 - named for what happened, as the store's
    """Kafka was not reached, or did not answer in time: one sentence with the address and the remedy.

    The cause is infrastructure's. Nothing is wrong with what was to be sent or read.
    """


class _Masked(str):
    """A password that works like any string and shows as asterisks where a client's arguments are printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'"


def kafka_arguments(kafka: KafkaSettings) -> dict[str, Any]:
    """The arguments that every aiokafka client takes: address, protection, log-in and time limit.

    Printing them does not show the password. Raises `SettingsError` for certificates that cannot be loaded.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout_ms,
    }
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        # The settings refuse SASL without all three.
        assert kafka.sasl_password is not None
        arguments["sasl_mechanism"] = kafka.sasl_mechanism
        arguments["sasl_plain_username"] = kafka.sasl_username
        arguments["sasl_plain_password"] = _Masked(kafka.sasl_password.get_secret_value())
    return arguments


@contextlib.contextmanager
def reaching_kafka(kafka: KafkaSettings, doing: str) -> Iterator[None]:
    """Turn what aiokafka raises while `doing` something into `KafkaUnavailable`.

    `doing` is the end of "... failed while": "creating the topics".
    """
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise KafkaUnavailable(
            f"Kafka at {kafka.bootstrap_servers} did not do its part while {doing} ({said}). Check that it runs and "
            "that DARKROOM_KAFKA__BOOTSTRAP_SERVERS is its address."
        ) from error


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """TLS with the broker's certificate and host name verified."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=kafka.ssl_cafile)
        if kafka.ssl_certfile is not None and kafka.ssl_keyfile is not None:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
    except OSError as error:  # ssl.SSLError is one
        named = [str(path) for path in (kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile) if path is not None]
        raise SettingsError(
            f"The certificates for Kafka cannot be loaded from {', '.join(named)} ({error}). Correct "
            "DARKROOM_KAFKA__SSL_CAFILE, __SSL_CERTFILE and __SSL_KEYFILE."
        ) from error
    return context
