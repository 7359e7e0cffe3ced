"""Proves that lag moves the fleet as the findings ask: the total lag, from the beginning, in steps, never thrashing."""

from __future__ import annotations

from typing import Any

from darkroom.schemas.names import Topic
from tests.helm.chart import EXAMPLES, one, render, values_of, with_values

FLEET = values_of(next(one for one in EXAMPLES if one.stem == "fleet"))


def scaled(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = one(render(with_values(FLEET, changes or {})), "ScaledObject")["spec"]
    assert isinstance(spec, dict)
    return spec


def test_lag_in_kafka_is_what_counts() -> None:
    trigger = scaled()["triggers"][0]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"] == {
        "bootstrapServers": "kafka-0.kafka:9093,kafka-1.kafka:9093,kafka-2.kafka:9093",
        "consumerGroup": "darkroom",
        "topic": Topic.REQUESTS.value,
        "lagThreshold": "8",
        "activationLagThreshold": "0",
        "offsetResetPolicy": "earliest",
        "allowIdleConsumers": "false",
        "limitToPartitionsWithLag": "true",
        "fullMetadata": "false",
        "tls": "enable",
        "sasl": "scram_sha512",
    }


def test_the_topics_prefix_and_the_group_are_the_workers_own() -> None:
    metadata = scaled({"settings.topics.prefix": "staging.", "settings.kafka.group_id": "other"})["triggers"][0][
        "metadata"
    ]
    assert (metadata["topic"], metadata["consumerGroup"]) == ("staging.generation.requests", "other")


def test_seconds_of_waiting_work_scale_and_never_wake() -> None:
    _, seconds = scaled()["triggers"]
    assert seconds["metadata"]["query"] == (
        'sum(darkroom_lag_seconds{namespace="pictures",pod=~"demo-darkroom-worker-.+"})'
    )
    assert float(seconds["metadata"]["activationThreshold"]) > 1e6
    assert seconds["metricType"] == "AverageValue"


def test_windows_are_longer_than_a_model_takes_to_load_and_scaling_in_is_slow() -> None:
    spec = scaled()
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 900
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]
    assert spec["cooldownPeriod"] >= 900
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 24)
    assert spec["fallback"] == {"failureThreshold": 4, "replicas": 2}
    assert "tolerance" not in behavior["scaleUp"]
    exact = scaled({"autoscaling.behavior": {"scaleUp": {"tolerance": 0}}})
    assert exact["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleUp"]["tolerance"] == "0"


def test_keda_logs_in_with_the_workers_own_secret() -> None:
    manifests = render(FLEET)
    authentication = one(manifests, "TriggerAuthentication")
    name = authentication["metadata"]["name"]
    triggers = one(manifests, "ScaledObject")["spec"]["triggers"]
    assert [trigger.get("authenticationRef", {}).get("name") for trigger in triggers] == [name, None]
    given = {entry["parameter"]: (entry["name"], entry["key"]) for entry in authentication["spec"]["secretTargetRef"]}
    assert given == {
        "username": ("darkroom-kafka", "username"),
        "password": ("darkroom-kafka", "password"),
        "ca": ("darkroom-kafka", "ca.crt"),
    }


def test_a_plain_kafka_needs_no_login() -> None:
    changes = {"settings.kafka.security_protocol": "PLAINTEXT", "settings.kafka.sasl_mechanism": None}
    manifests = render(with_values(FLEET, changes | {"secrets.kafka": {"name": ""}}))
    assert not [manifest for manifest in manifests if manifest["kind"] == "TriggerAuthentication"]
    metadata = one(manifests, "ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert not {"tls", "sasl"} & metadata.keys()


def test_there_is_never_more_than_one_autoscaler() -> None:
    for mode, kinds in {"keda": {"ScaledObject"}, "hpa": {"HorizontalPodAutoscaler"}, "none": set()}.items():
        changes = {"autoscaling.mode": mode, "autoscaling.minReplicas": 1}
        manifests = render(with_values(FLEET, changes))
        found = {manifest["kind"] for manifest in manifests} & {"ScaledObject", "HorizontalPodAutoscaler"}
        assert found == kinds


def test_the_plain_autoscaler_follows_the_workers_seconds() -> None:
    hpa = one(
        render(with_values(FLEET, {"autoscaling.mode": "hpa", "autoscaling.minReplicas": 1})), "HorizontalPodAutoscaler"
    )
    (metric,) = hpa["spec"]["metrics"]
    assert metric["pods"] == {
        "metric": {"name": "darkroom_lag_seconds"},
        "target": {"type": "AverageValue", "averageValue": "30"},
    }
    assert hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 900
