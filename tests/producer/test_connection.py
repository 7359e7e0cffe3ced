"""Proves how Kafka is reached: what clients are given, what they never show, and what is said when nobody answers."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest

from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments, reaching_kafka
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.settings import KafkaSettings

SASL = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "worker", "sasl_password": "very-secret"}


def test_a_plain_connection_needs_little() -> None:
    arguments = kafka_arguments(KafkaSettings(bootstrap_servers="one:9092,two:9092", request_timeout_ms=7_000))
    assert arguments == {
        "bootstrap_servers": "one:9092,two:9092",
        "security_protocol": "PLAINTEXT",
        "request_timeout_ms": 7_000,
    }


def test_a_password_reaches_the_client_and_no_log() -> None:
    arguments = kafka_arguments(KafkaSettings.model_validate({"security_protocol": "SASL_PLAINTEXT", **SASL}))
    assert arguments["sasl_plain_password"] == "very-secret"
    assert arguments["sasl_plain_password"].encode() == b"very-secret"
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert arguments["sasl_plain_username"] == "worker"
    assert "very-secret" not in f"{arguments} {arguments | {'client_id': 'x'}!r}"


def test_a_log_in_is_kept_out_of_the_clients_own_log(caplog: pytest.LogCaptureFixture) -> None:
    """aiokafka logs each request at level debug, and one of SASL PLAIN's is the password."""
    kafka_arguments(KafkaSettings.model_validate({"security_protocol": "SASL_PLAINTEXT", **SASL}))
    log = logging.getLogger("aiokafka.conn")
    with caplog.at_level(logging.DEBUG, logger="aiokafka"):
        for request in (SaslAuthenticateRequest(b"\0worker\0very-secret"), SaslHandShakeRequest("PLAIN")):
            log.debug("Request to %s:%d %d: %s", "host", 9092, 7, request.prepare({17: (0, 1), 36: (0, 1)}))
    assert "very-secret" not in caplog.text
    assert len(caplog.records) == 1
    assert "SaslHandShakeRequest" in caplog.text


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_tls_verifies_the_broker(protocol: str) -> None:
    sasl = SASL if protocol == "SASL_SSL" else {}
    context = kafka_arguments(KafkaSettings.model_validate({"security_protocol": protocol, **sasl}))["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_certificates_that_cannot_be_loaded_are_named_with_their_settings(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate")
    for path in (empty, tmp_path / "absent.pem"):
        with pytest.raises(SettingsError, match=rf"{path}.*DARKROOM_KAFKA__SSL_CAFILE"):
            kafka_arguments(KafkaSettings(security_protocol="SSL", ssl_cafile=path))


@pytest.mark.parametrize(
    "error", [KafkaConnectionError("refused"), KafkaTimeoutError(), OSError(111, "refused"), TimeoutError()]
)
def test_what_the_client_raises_becomes_one_sentence_with_the_remedy(error: Exception) -> None:
    with pytest.raises(KafkaUnavailable) as caught, reaching_kafka(KafkaSettings(), "creating the topics"):
        raise error
    said = str(caught.value)
    assert "127.0.0.1:9092" in said
    assert "creating the topics" in said
    assert "DARKROOM_KAFKA__BOOTSTRAP_SERVERS" in said
    assert caught.value.__cause__ is error


def test_other_errors_are_not_kafkas() -> None:
    with pytest.raises(ZeroDivisionError), reaching_kafka(KafkaSettings(), "counting"):
        raise ZeroDivisionError
    with pytest.raises(asyncio.CancelledError), reaching_kafka(KafkaSettings(), "waiting"):
        raise asyncio.CancelledError
