"""compose.yaml offers what the default settings look for, on loopback only. What docker makes of it is not shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from darkroom.consumer.stack.jars import KAFKA_VERSION
from darkroom.schemas.settings import Settings, load_settings

OURS = {"init", "worker", "gateway"}
FILE = Path(__file__).resolve().parents[2] / "compose.yaml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load(FILE.read_text())
    assert isinstance(content, dict)
    return content


def test_every_key_is_one_that_compose_knows(compose: dict[str, Any]) -> None:
    known = {"image", "ports", "volumes", "environment", "healthcheck", "command", "entrypoint", "depends_on", "init"}
    known |= {"build", "profiles", "stop_grace_period"}
    assert compose.keys() == {"name", "services", "volumes"}
    assert compose["services"].keys() == {"kafka", "s3", "bucket"} | OURS
    for service in compose["services"].values():
        assert service.keys() <= known
        assert service["healthcheck"].keys() <= {"test", "interval", "timeout", "retries", "start_period"}
        assert service["healthcheck"]["test"][0] in ("CMD", "NONE")
        assert all(isinstance(value, str) for value in service["environment"].values())


def test_our_own_parts_come_only_when_asked_for_and_from_the_dockerfile(compose: dict[str, Any]) -> None:
    targets = re.findall(r"(?m)^FROM .* AS (\S+)$", (FILE.parent / "Dockerfile").read_text())
    for name, service in compose["services"].items():
        assert service.get("profiles", []) == (["darkroom"] if name in OURS else [])
        if name in OURS:
            assert service["build"]["target"] in targets
    worker = compose["services"]["worker"]
    assert int(worker["stop_grace_period"].removesuffix("s")) >= Settings().worker.drain_s + 30
    environment = compose["services"]["init"]["environment"]
    settings = load_settings(environ=environment)
    kafka, s3 = (compose["services"][name]["environment"] for name in ("kafka", "s3"))
    assert f"INTERNAL://{settings.kafka.bootstrap_servers}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert environment["DARKROOM_S3__ACCESS_KEY"] == s3["MINIO_ROOT_USER"]


def test_images_are_pinned_and_kafka_is_the_embedded_one(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items() if name not in OURS}
    assert images["kafka"] == f"apache/kafka:{KAFKA_VERSION}"
    assert images["s3"] == images["bucket"]
    assert images["s3"].startswith("minio/minio:RELEASE.")


def test_ports_are_open_on_loopback_alone_and_data_is_in_named_volumes(compose: dict[str, Any]) -> None:
    for name in ("kafka", "s3"):
        service = compose["services"][name]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= compose["volumes"].keys()
    kafka = compose["services"]["kafka"]
    assert kafka["volumes"] == [f"kafka:{kafka['environment']['KAFKA_LOG_DIRS']}"]


def test_the_default_settings_lead_there(compose: dict[str, Any]) -> None:
    settings = Settings()
    kafka, s3, bucket = (compose["services"][name] for name in ("kafka", "s3", "bucket"))
    assert kafka["ports"] == [f"{settings.kafka.bootstrap_servers}:9092"]
    assert f"HOST://{settings.kafka.bootstrap_servers}," in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert s3["ports"] == [f"{settings.s3.endpoint.removeprefix('http://')}:9000"]
    access, secret = s3["environment"]["MINIO_ROOT_USER"], s3["environment"]["MINIO_ROOT_PASSWORD"]
    assert bucket["environment"]["MC_HOST_store"] == f"http://{access}:{secret}@s3:9000"
    assert f"store/{settings.s3.bucket} " in bucket["entrypoint"][-1]
    assert f"export DARKROOM_S3__ACCESS_KEY={access} DARKROOM_S3__SECRET_KEY={secret}" in FILE.read_text()
