"""Proves that certificates and keys in files are taken up when they change: on a real Kafka and S3 server, over TLS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import load_settings
from tests.integration.secured import Secured

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(tmp_path_factory.mktemp("renewed"))
    yield secured
    secured.close()


def renew(file: Path, content: bytes) -> None:
    """As certificate managers do: the new file takes the old one's place at once."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


async def is_let_in(arguments: dict[str, object]) -> bool:
    """Whether one more client of these arguments reaches Kafka, by a connection of its own."""
    admin = AIOKafkaAdminClient(**arguments)
    try:
        await admin.start()
    except KafkaError:
        return False
    finally:
        await admin.close()
    return True


async def test_a_client_s_certificate_is_read_again_for_the_next_connection(secured: Secured, tmp_path: Path) -> None:
    own, good = tmp_path / "client.pem", secured.client.read_bytes()
    own.write_bytes(good)
    changes: dict[str, str | None] = {"KAFKA__SSL_CERTFILE": str(own), "KAFKA__SSL_KEYFILE": str(own)}
    settings = load_settings(environ=secured.environment("certificate", **changes))
    arguments = kafka_arguments(settings.kafka)
    assert await is_let_in(arguments)
    renew(own, secured.stranger.read_bytes())
    assert not await is_let_in(arguments)
    renew(own, secured.authority.identity("renewed").read_bytes())
    assert await is_let_in(arguments)


async def test_a_file_that_is_half_written_leaves_in_force_what_was_read(secured: Secured, tmp_path: Path) -> None:
    own = shutil.copy(secured.client, tmp_path / "client.pem")
    changes: dict[str, str | None] = {"KAFKA__SSL_CERTFILE": str(own), "KAFKA__SSL_KEYFILE": str(own)}
    arguments = kafka_arguments(load_settings(environ=secured.environment("certificate", **changes)).kafka)
    renew(own, secured.client.read_bytes()[:300])
    assert await is_let_in(arguments)
    os.remove(own)
    assert await is_let_in(arguments)


async def test_authorities_are_added_and_taken_away(secured: Secured, tmp_path: Path) -> None:
    trusted = shutil.copy(secured.authority.certificate, tmp_path / "authorities.pem")
    environment = secured.environment("PLAIN", KAFKA__SSL_CAFILE=str(trusted))
    arguments = kafka_arguments(load_settings(environ=environment).kafka)
    assert await is_let_in(arguments)
    renew(trusted, secured.other_authority.certificate.read_bytes())
    assert not await is_let_in(arguments)
    renew(trusted, secured.other_authority.certificate.read_bytes() + secured.authority.certificate.read_bytes())
    assert await is_let_in(arguments)


async def test_the_store_s_authorities_and_keys_are_read_again(secured: Secured, tmp_path: Path) -> None:
    trusted = shutil.copy(secured.authority.certificate, tmp_path / "authorities.pem")
    secret = tmp_path / "secret"
    secret.write_text(secured.secret_key)
    changes: dict[str, str | None] = {"S3__SECRET_KEY": None, "S3__SECRET_KEY_FILE": str(secret), "S3__ATTEMPTS": "1"}
    settings = load_settings(environ=secured.environment("PLAIN", S3__CA_FILE=str(trusted), **changes))
    async with MinioObjects(settings.s3) as objects:
        await objects.ensure_bucket(retention_days=None)
        await objects.put("a", b"1", "text/plain")
        renew(secret, b"another secret")
        with pytest.raises(StoreUnavailable):
            await objects.put("a", b"2", "text/plain")
        renew(secret, f"{secured.secret_key}\n".encode())
        await objects.put("a", b"3", "text/plain")
        renew(trusted, secured.other_authority.certificate.read_bytes())
        async with MinioObjects(settings.s3) as others:
            with pytest.raises(StoreUnavailable):
                await others.get("a", bytes_max=10)
        objects._http.clear()  # the connections that stand would be used for ever
        with pytest.raises(StoreUnavailable):
            await objects.get("a", bytes_max=10)
        renew(trusted, secured.authority.certificate.read_bytes())
        assert await objects.get("a", bytes_max=10) == b"3"
