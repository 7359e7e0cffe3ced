"""Proves that the chart refuses what would lose work, repeat it or thrash, with a sentence that says what to change."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import EXAMPLES, Refused, render, values_of, with_values

FLEET = values_of(next(one for one in EXAMPLES if one.stem == "fleet"))

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "more workers than partitions": ({"autoscaling.maxReplicas": 49}, "autoscaling.maxReplicas 49 is above"),
    "the same by hand": (
        {"autoscaling.mode": "none", "worker.replicas": 60},
        "worker.replicas 60 is above settings.topics.requests_partitions 48",
    ),
    "minimum above maximum": ({"autoscaling.minReplicas": 30}, "minReplicas 30 is above"),
    "a plain autoscaler at zero": ({"autoscaling.mode": "hpa"}, "at least 1 with autoscaling.mode hpa"),
    "a fallback above the maximum": (
        {"autoscaling.keda.fallback": {"enabled": True, "failureThreshold": 3, "replicas": 25}},
        "fallback.replicas",
    ),
    "a grace period shorter than the drain": (
        {"worker.terminationGracePeriodSeconds": 130},
        "130 is less than 30 s above settings.worker.drain_s 120",
    ),
    "a grace period shorter than the longest batch": (
        {"worker.longestBatchSeconds": 170, "settings.worker.drain_s": 140},
        "above worker.longestBatchSeconds 170",
    ),
    "a drain shorter than the longest batch": (
        {"worker.longestBatchSeconds": 140},
        "settings.worker.drain_s 120 is below worker.longestBatchSeconds 140",
    ),
    "an eviction while draining": (
        {"settings.kafka.rebalance_timeout_ms": 100_000},
        "rebalance_timeout_ms 100000 must be above",
    ),
    "a gateway that cuts calls": ({"gateway.terminationGracePeriodSeconds": 10}, "calls would be cut"),
    "scaling in faster than loading": (
        {"autoscaling.behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}},
        "stabilizationWindowSeconds 300 is below worker.loadSeconds 900",
    ),
    "a cooldown shorter than loading": ({"autoscaling.keda.cooldownSeconds": 60}, "cooldownSeconds 60 is below"),
    "persistent lag left out": (
        {"autoscaling.keda.kafka.metadata": {"excludePersistentLag": "true"}},
        "excludePersistentLag may not be set",
    ),
    "zero on an invalid offset": (
        {"autoscaling.keda.kafka.metadata": {"scaleToZeroOnInvalidOffset": "true"}},
        "scaleToZeroOnInvalidOffset may not be set",
    ),
    "idle consumers": (
        {"autoscaling.keda.kafka.metadata": {"allowIdleConsumers": True}},
        "allowIdleConsumers may not be",
    ),
    "latest": (
        {"autoscaling.keda.kafka.metadata": {"offsetResetPolicy": "latest"}},
        "offsetResetPolicy must be earliest",
    ),
    "prometheus nowhere": (
        {"autoscaling.keda.prometheus.serverAddress": ""},
        "needs autoscaling.keda.prometheus.serverAddress",
    ),
    "a token without its secret": (
        {"settings.kafka.sasl_mechanism": "OAUTHBEARER"},
        "secrets.kafka needs name and oauthSecret",
    ),
    "a token endpoint that KEDA does not know": (
        {"settings.kafka.sasl_mechanism": "OAUTHBEARER", "secrets.kafka.oauthSecret": "s"},
        "needs settings.kafka.oauth_token_url",
    ),
    "files without a secret": (
        {"settings.s3.credentials": "files", "secrets.s3.name": ""},
        "secrets.s3.name must name the Secret",
    ),
    "a role that nothing takes": (
        {"settings.s3.credentials": "aws", "settings.s3.role_arn": "arn:aws:iam::1:role/x"},
        "annotate the service account",
    ),
    "a store's key in the clear": ({"settings.s3.secret_key": "x"}, "settings.s3.secret_key is a secret"),
    "Kafka's password in the clear": ({"settings.kafka.sasl_password": "x"}, "secrets.kafka"),
    "a secret variable in the clear": (
        {"worker.env": [{"name": "REDIS_PASSWORD", "value": "x"}]},
        "REDIS_PASSWORD looks like a secret",
    ),
    "SASL without a login": ({"secrets.kafka.password": ""}, "asks for SASL"),
    "half a certificate": ({"secrets.kafka.certificate": "tls.crt"}, "set together or not at all"),
    "a forgotten model": ({"settings.model": {"path": None}}, "workers would paint noise"),
    "one node's claim for many": (
        {"worker.cache": {"type": "pvc", "accessMode": "ReadWriteOnce"}},
        "can be mounted on one node",
    ),
    "a cache larger than its volume": ({"settings.model.cache_bytes_max": 200 * 2**30}, "the volume would be full"),
    "callbacks without their file": ({"hooks.enabled": True}, "hooks.enabled needs secrets.hooks.name"),
    "a gateway without keys": ({"secrets.access.name": ""}, "needs secrets.access.name"),
    "replicas that do not know each other's sessions": ({"secrets.access.sessionSecret": ""}, "unknown at the others"),
    "a session secret in the clear": (
        {"settings.access": {"session_secret": "x"}},
        "settings.access.session_secret is",
    ),
    "an ingress without a host": ({"gateway.ingress.host": ""}, "needs gateway.ingress.host"),
    "an unknown mode": ({"autoscaling.mode": "both"}, "mode"),
    "a misspelt value": ({"worker.terminationGraceSeconds": 200}, "terminationGraceSeconds"),
    "a misspelt setting": ({"settings.kafka.bootstrap_server": "kafka:9092"}, "bootstrap_server"),
    "a misspelt trigger": ({"autoscaling.keda.kafka.metadata": {"lagTreshold": "5"}}, "lagTreshold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_a_sentence(case: str) -> None:
    changes, sentence = REFUSED[case]
    with pytest.raises(Refused) as refused:
        render(with_values(FLEET, changes))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"autoscaling.maxReplicas": 48},
        {"worker.terminationGracePeriodSeconds": 150},
        {"worker.longestBatchSeconds": 120},
        {"autoscaling.keda.cooldownSeconds": 900, "worker.loadSeconds": 900},
        {"autoscaling.minReplicas": 1, "autoscaling.keda.cooldownSeconds": 30},
        {"worker.env": [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "p"}}}]},
        {"settings.model": {"path": None}, "settings.simulated": {"step_ms": 20}},
        {
            "worker.cache": {"type": "pvc", "accessMode": "ReadWriteOnce"},
            "autoscaling.maxReplicas": 1,
            "autoscaling.keda.fallback": {"replicas": 1},
        },
    ],
)
def test_the_edge_is_not(changes: dict[str, Any]) -> None:
    assert render(with_values(FLEET, changes))
