"""Arguments of every Kafka client of this product, and the one error for a broker that is not there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.denials import denial
from darkroom.producer.kafka.passwords import Password
from darkroom.producer.kafka.refusals import refusal
from darkroom.producer.kafka.remedies import remedy
from darkroom.producer.kafka.tls import KAFKA, client_context
from darkroom.producer.kafka.tokens import provider_for

if TYPE_CHECKING:
    from darkroom.schemas.settings import KafkaSettings


class KafkaUnavailable(Exception):  # noqa: N818 - named for what happened, as the store's
    """Kafka was not reached, or did not answer in time: one sentence with the address and the remedy.

    The cause is infrastructure's. Nothing is wrong with what was to be sent or read.
    """


class KafkaDenied(KafkaUnavailable):
    """Kafka was reached, and a right is missing: one sentence with the right, on what, for whom, and the remedy."""


def kafka_arguments(kafka: KafkaSettings) -> dict[str, Any]:
    """The arguments that every aiokafka client takes: address, protection, log-in and time limit.

    Printing them does not show the password, nor does aiokafka's log, which has whole requests at level debug, from
    here on show the ones that log in. Raises `SettingsError` for certificates that cannot be loaded.
    """
    logging.getLogger("aiokafka.conn").addFilter(_logs_nobody_in)
    arguments: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout_ms,
    }
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = client_context(
            KAFKA, kafka.ssl_cafile, certificate=kafka.ssl_certfile, key=kafka.ssl_keyfile
        )
    if kafka.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = provider_for(kafka)
            return arguments
        # The settings refuse SASL without all three.
        assert kafka.sasl_password is not None
        arguments["sasl_plain_username"] = kafka.sasl_username
        arguments["sasl_plain_password"] = Password(kafka.sasl_password)
    return arguments


@contextlib.contextmanager
def reaching_kafka(kafka: KafkaSettings, doing: str, *, operation: str | None = None) -> Iterator[None]:
    """Turn what aiokafka raises while `doing` something into `KafkaUnavailable`, a missing right into `KafkaDenied`.

    `doing` is the end of "... failed while": "creating the topics". `operation` is the right on topics that it takes,
    where that is only one.
    """
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        if (denied := denial(error, kafka, operation=operation)) is not None:
            raise KafkaDenied(f"Kafka at {kafka.bootstrap_servers} refused while {doing}: {denied}") from error
        if (known := remedy(error, kafka)) is not None:
            raise KafkaUnavailable(f"Kafka at {kafka.bootstrap_servers} refused while {doing}: {known}") from error
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise KafkaUnavailable(
            f"Kafka at {kafka.bootstrap_servers} did not do its part while {doing} ({said}). Check that it runs and "
            "that DARKROOM_KAFKA__BOOTSTRAP_SERVERS is its address."
        ) from error


@contextlib.asynccontextmanager
async def connecting_to_kafka(kafka: KafkaSettings, doing: str) -> AsyncIterator[None]:
    """As `reaching_kafka`, around what opens a client's first connection: says also why Kafka lets nobody in."""
    try:
        with reaching_kafka(kafka, doing):
            yield
    except KafkaDenied:
        raise
    except KafkaUnavailable as error:
        trouble = await refusal(kafka, kafka_arguments(kafka))
        if trouble is None:
            raise
        raise KafkaUnavailable(
            f"Kafka at {kafka.bootstrap_servers} was not reached while {doing}: {trouble.what}. {trouble.remedy}"
        ) from error.__cause__


@contextlib.asynccontextmanager
async def administering(kafka: KafkaSettings, doing: str) -> AsyncIterator[Administrator]:
    """An admin client that is connected, and closed in the end. `KafkaUnavailable` for all that fails meanwhile."""
    admin = Administrator(**kafka_arguments(kafka))
    try:
        async with connecting_to_kafka(kafka, doing):
            await admin.start()
        with reaching_kafka(kafka, doing):
            yield admin
    finally:
        await close(admin)


def _logs_nobody_in(record: logging.LogRecord) -> bool:
    """Whether a line of aiokafka's is not about a log-in: SASL PLAIN's request is the password itself (RFC 4616)."""
    about = record.args if isinstance(record.args, tuple) else ()
    return not any(type(one).__name__.startswith("SaslAuthenticate") for one in about)
