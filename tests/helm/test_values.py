"""Proves that the chart's values are complete, commented, and reach the processes as settings that they understand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from darkroom.schemas.settings import Settings, load_settings
from tests.helm.chart import (
    CHART,
    EXAMPLES,
    WORKLOADS,
    environment_of,
    one,
    pod_of,
    render,
    values_of,
    with_values,
)
from tests.helm.values_schema import OURS, settings_schema, written

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
FLEET = values_of(next(example for example in EXAMPLES if example.stem == "fleet"))


def keys(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in values.items():
        found.append((*path, name))
        if isinstance(value, dict):
            found += keys(value, (*path, name))
    return found


def test_the_schema_names_every_setting_and_none_that_is_gone() -> None:
    assert written()["properties"]["settings"] == settings_schema(), "run: make schemas"
    for section, name in OURS:
        assert name in Settings.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_the_schema_knows_every_value_and_no_other() -> None:
    def known(schema: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        inner = schema.get("properties", {})
        return {(*path, name) for name in inner} | {k for n, s in inner.items() for k in known(s, (*path, n))}

    def own(path: tuple[str, ...]) -> bool:
        return path[0] not in ("settings", "global") or len(path) == 1

    open_maps = ("podSecurityContext", "resources", "strategy", "labels")
    theirs = {path for path in keys(DEFAULTS) if own(path) and not set(path[:-1]) & set(open_maps)}
    assert theirs == {path for path in known(written()) if own(path)} - {("global",)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_pod_has_settings_that_load(example: Any) -> None:
    manifests = render(values_of(example))
    for manifest in manifests:
        if manifest["kind"] not in WORKLOADS:
            continue
        environment = environment_of(manifests, manifest)
        known = {
            name: value
            for name, value in environment.items()
            # Secrets are read from files that are not there; the other _FILEs are settings by themselves.
            if name.startswith("DARKROOM_") and not re.search(r"((ACCESS|SECRET)_KEY|SECRET|PASSWORD|URL)_FILE$", name)
        }
        if "SASL" in known.get("DARKROOM_KAFKA__SECURITY_PROTOCOL", ""):
            known["DARKROOM_KAFKA__SASL_PASSWORD"] = "from-a-file"
        settings = load_settings(environ=known)
        assert settings.kafka.bootstrap_servers == values_of(example)["settings"]["kafka"]["bootstrap_servers"]


def test_numbers_arrive_as_they_were_written() -> None:
    values = with_values(
        FLEET,
        {
            "settings.model.cache_bytes_max": 42949672960,
            "settings.batch": {"linger_ms": 0, "calibrate_s": 2.5},
            "settings.s3.allowed_buckets": ["poses", "uploads"],
            "settings.simulated": {"obey_markers": False},
        },
    )
    data = one(render(values), "ConfigMap", "settings")["data"]
    assert data["DARKROOM_MODEL__CACHE_BYTES_MAX"] == "42949672960"
    assert (data["DARKROOM_BATCH__LINGER_MS"], data["DARKROOM_BATCH__CALIBRATE_S"]) == ("0", "2.5")
    assert data["DARKROOM_S3__ALLOWED_BUCKETS"] == "poses,uploads"
    assert data["DARKROOM_SIMULATED__OBEY_MARKERS"] == "false"
    assert data["DARKROOM_MODEL__COMPILE_SIZES"] == "1024x1024,832x1216,1216x832"


def test_nothing_secret_is_in_a_manifest_and_all_of_it_is_mounted() -> None:
    manifests = render(FLEET)
    assert not [manifest for manifest in manifests if manifest["kind"] == "Secret"]
    worker = one(manifests, "Deployment", "worker")
    environment = environment_of(manifests, worker)
    assert environment["DARKROOM_S3__SECRET_KEY_FILE"] == "/etc/darkroom/s3/secret-key"
    assert environment["DARKROOM_KAFKA__SASL_PASSWORD_FILE"] == "/etc/darkroom/kafka/password"
    assert environment["DARKROOM_KAFKA__SSL_CAFILE"] == "/etc/darkroom/kafka/ca.crt"
    pod = pod_of(worker)
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert secrets == {
        "s3": "darkroom-s3",
        "s3-ca": "darkroom-store-ca",
        "kafka": "darkroom-kafka",
        "provenance": "darkroom-provenance",
    }
    assert all(mounted[f"/etc/darkroom/{name}"] == name for name in secrets)


def test_the_stores_identity_decides_what_is_mounted() -> None:
    keys = {"DARKROOM_S3__ACCESS_KEY_FILE", "DARKROOM_S3__SECRET_KEY_FILE"}
    for credentials, of_the_secret in (("static", keys), ("files", keys), ("aws", set()), ("web_identity", set())):
        annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/darkroom"}
        changed = {"settings.s3.credentials": credentials, "serviceAccount.annotations": annotations}
        manifests = render(with_values(FLEET, changed))
        worker = one(manifests, "Deployment", "worker")
        environment = environment_of(manifests, worker)
        assert environment.keys() & keys == of_the_secret
        volumes = {volume["name"]: volume for volume in pod_of(worker)["volumes"]}
        assert ("s3" in volumes) == bool(of_the_secret)
        assert ("s3-identity" in volumes) == (credentials == "web_identity")
        if credentials == "web_identity":
            assert environment["DARKROOM_S3__WEB_IDENTITY_TOKEN_FILE"] == "/etc/darkroom/s3-identity/token"
            (source,) = volumes["s3-identity"]["projected"]["sources"]
            assert source["serviceAccountToken"]["audience"] == "sts.amazonaws.com"
        assert one(manifests, "ServiceAccount", "worker")["metadata"]["annotations"] == annotations


def test_the_kafka_client_that_logs_in_by_tokens_is_the_workers_and_kedas() -> None:
    changed = {
        "settings.kafka.sasl_mechanism": "OAUTHBEARER",
        "settings.kafka.oauth_client_id": "workers",
        "settings.kafka.oauth_token_url": "https://issuer/token",
        "settings.kafka.oauth_scope": "kafka",
        "secrets.kafka": {"name": "darkroom-kafka", "oauthSecret": "client-secret", "ca": "ca.crt"},
    }
    values = with_values(FLEET, changed)
    values["secrets"]["kafka"] |= {"username": "", "password": ""}
    manifests = render(values)
    worker = one(manifests, "Deployment", "worker")
    environment = environment_of(manifests, worker)
    assert environment["DARKROOM_KAFKA__OAUTH_CLIENT_SECRET_FILE"] == "/etc/darkroom/kafka/client-secret"
    assert environment["DARKROOM_KAFKA__OAUTH_TOKEN_URL"] == "https://issuer/token"
    (scaled,) = (manifest for manifest in manifests if manifest["kind"] == "ScaledObject")
    (trigger,) = (trigger for trigger in scaled["spec"]["triggers"] if trigger["type"] == "kafka")
    assert trigger["metadata"]["sasl"] == "oauthbearer"
    (login,) = (manifest for manifest in manifests if manifest["kind"] == "TriggerAuthentication")
    secret = {entry["parameter"]: entry["key"] for entry in login["spec"]["secretTargetRef"]}
    assert secret == {"password": "client-secret", "ca": "ca.crt"}
    assert {entry["parameter"]: entry["name"] for entry in login["spec"]["env"]} == {
        "username": "DARKROOM_KAFKA__OAUTH_CLIENT_ID",
        "oauthTokenEndpointUri": "DARKROOM_KAFKA__OAUTH_TOKEN_URL",
        "scopes": "DARKROOM_KAFKA__OAUTH_SCOPE",
    }
    containers = {container["name"] for container in pod_of(worker)["containers"]}
    assert {entry["containerName"] for entry in login["spec"]["env"]} <= containers


def test_a_session_token_is_a_file_too() -> None:
    manifests = render(with_values(FLEET, {"secrets.s3.sessionToken": "session"}))
    environment = environment_of(manifests, one(manifests, "Deployment", "worker"))
    assert environment["DARKROOM_S3__SESSION_TOKEN_FILE"] == "/etc/darkroom/s3/session"


def test_the_cache_fits_its_volume() -> None:
    manifests = render(with_values(FLEET, {"worker.cache": {"type": "emptyDir", "sizeGi": 100}}))
    worker = one(manifests, "Deployment", "worker")
    bound = int(environment_of(manifests, worker)["DARKROOM_MODEL__CACHE_BYTES_MAX"])
    assert bound == 100 * 2**30 * 85 // 100
    (cache,) = (volume for volume in pod_of(worker)["volumes"] if volume["name"] == "cache")
    assert cache["emptyDir"] == {"sizeLimit": "100Gi"}
