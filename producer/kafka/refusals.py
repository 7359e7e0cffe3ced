"""Why Kafka lets a client not in: a certificate, a password, a listener that speaks something else or sends it away.

aiokafka's clients keep the reason to their log and say only that they reached no broker. So where one fails to
connect, a single connection is opened once more, and its own error is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from darkroom.producer.kafka.tls import KAFKA, Trouble, trouble_of
from darkroom.producer.kafka.tokens import TokenUnavailable, token_error
from darkroom.schemas.errors import bounded

if TYPE_CHECKING:
    from darkroom.schemas.settings import KafkaSettings

ASKING_S_MAX: Final = 5.0
"""How long the reason is looked for, all brokers together: a refusal comes at once."""
REDIRECTED_S_MAX: Final = 3.0
"""How long one address may take that a broker sends clients on to."""
REDIRECTED_MAX: Final = 5
"""Such addresses that are tried and named."""
_SAID_CHARACTERS_MAX: Final = 200
_PROTOCOL: Final = "Check that DARKROOM_KAFKA__SECURITY_PROTOCOL is what it speaks at this port."


async def refusal(kafka: KafkaSettings, arguments: Mapping[str, Any]) -> Trouble | None:
    """Return why a broker refuses a client with these `arguments`; None where one lets it in or none is there."""
    connecting = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    try:
        async with asyncio.timeout(ASKING_S_MAX):
            for host, port, _family in collect_hosts(kafka.bootstrap_servers, randomize=False):
                answer = await _answer_of(host, port, connecting)
                if not isinstance(answer, Exception):
                    return await _redirected(kafka, answer, connecting)
                if (trouble := _trouble_of(kafka, answer)) is not None:
                    return trouble
    except TimeoutError:
        pass
    return None


async def _answer_of(host: str, port: int, connecting: dict[str, Any]) -> list[tuple[str, int]] | Exception:
    """Connect, log in and ask where the brokers are: a listener that wants a log-in answers nothing without one."""
    try:
        connection = await create_conn(host, port, **connecting)
        try:
            answer = await connection.send(MetadataRequest([]))
        finally:
            connection.close()
    except (KafkaError, OSError) as error:  # a time-out is an OSError
        return error
    return [(one[1], one[2]) for one in answer.brokers]


async def _redirected(
    kafka: KafkaSettings, brokers: list[tuple[str, int]], connecting: dict[str, Any]
) -> Trouble | None:
    """Say so where none of the addresses that the brokers tell clients to use is reached from here."""
    limited = connecting | {"request_timeout_ms": min(REDIRECTED_S_MAX * 1000, connecting["request_timeout_ms"])}
    answers = await asyncio.gather(*(_answer_of(host, port, limited) for host, port in brokers[:REDIRECTED_MAX]))
    errors = [one for one in answers if isinstance(one, Exception)]
    if not errors or len(errors) < len(answers):
        return None
    trouble = _trouble_of(kafka, errors[0])
    said = (
        bounded(str(errors[0]) or type(errors[0]).__name__, _SAID_CHARACTERS_MAX) if trouble is None else trouble.what
    )
    named = ", ".join(f"{host}:{port}" for host, port in brokers[:REDIRECTED_MAX])
    return Trouble(
        f"it answers there and sends clients on to {named}, where no client gets in "
        f"({bounded(said, _SAID_CHARACTERS_MAX)})",
        "Let the brokers' advertised.listeners name addresses that this machine reaches.",
    )


def log_in_trouble(kafka: KafkaSettings) -> str | None:
    """Return the sentences for why brokers let no client of this process in, as far as tokens are the reason."""
    error = token_error(kafka)
    if error is None:
        return None
    trouble = _log_in_refused(kafka, error)
    return f"Kafka does not let us in: {trouble.what}. {trouble.remedy}"


def _log_in_refused(kafka: KafkaSettings, error: KafkaError) -> Trouble:
    if isinstance(error, TokenUnavailable):
        return Trouble(error.what, error.remedy)
    said = bounded(str(error.args[0] if error.args else "no reason given"), _SAID_CHARACTERS_MAX)
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return Trouble(
            f"it refuses the token of the client {kafka.oauth_client_id} ({said})",
            "Let the broker expect the token's issuer and audience and know the issuer's keys (sasl.oauthbearer.*; its "
            "log has the reason), or correct DARKROOM_KAFKA__OAUTH_SCOPE, __OAUTH_ISSUER or __OAUTH_TOKEN_URL.",
        )
    return Trouble(
        f"it refuses the log-in of {kafka.sasl_username} ({said})",
        "Correct DARKROOM_KAFKA__SASL_USERNAME, __SASL_PASSWORD (or __SASL_PASSWORD_FILE) or __SASL_MECHANISM.",
    )


def _trouble_of(kafka: KafkaSettings, error: Exception) -> Trouble | None:
    tls = trouble_of(KAFKA, error)
    if tls is not None:
        return tls
    if isinstance(error, SaslAuthenticationFailed | TokenUnavailable):
        return _log_in_refused(kafka, error)
    if isinstance(error, UnsupportedSaslMechanismError):
        return Trouble(
            f"it has no log-in by {kafka.sasl_mechanism}", "Let DARKROOM_KAFKA__SASL_MECHANISM name one that it has."
        )
    if isinstance(error, IllegalSaslStateError):
        return Trouble("it takes no log-in at this port", _PROTOCOL)
    hung_up = isinstance(error, KafkaConnectionError) and isinstance(error.__cause__, EOFError)
    if hung_up or isinstance(error, ConnectionResetError):
        return Trouble("it hung up when it was greeted", _PROTOCOL)
    return None
