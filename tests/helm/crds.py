"""What the chart uses of other people's resources, as closed JSON Schemas: a misspelt field is an error.

KEDA 2.21's `ScaledObject` and `TriggerAuthentication`, its two triggers' metadata, and the Prometheus operator's three.
Fields that the chart never writes are left out, so this is narrower than the real definitions, not looser;
`test_manifests.py` holds KEDA's against the real ones where they are at hand.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(*required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def resource(version: str, kind: str, spec: Schema) -> Schema:
    metadata = closed("name", "labels", name=TEXT, labels=TEXTS, annotations=TEXTS)
    return closed(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


KAFKA_TRIGGER = closed(
    "bootstrapServers",
    "consumerGroup",
    "topic",
    "lagThreshold",
    "activationLagThreshold",
    "offsetResetPolicy",
    "allowIdleConsumers",
    "limitToPartitionsWithLag",
    "fullMetadata",
    bootstrapServers=TEXT,
    consumerGroup=TEXT,
    topic=TEXT,
    lagThreshold={"type": "string", "pattern": "^[1-9][0-9]*$"},
    activationLagThreshold={"type": "string", "pattern": "^[0-9]+$"},
    offsetResetPolicy={"const": "earliest"},
    allowIdleConsumers={"const": "false"},
    limitToPartitionsWithLag={"enum": ["true", "false"]},
    ensureEvenDistributionOfPartitions={"enum": ["true", "false"]},
    partitionLimitation=TEXT,
    fullMetadata={"enum": ["true", "false"]},
    version=TEXT,
    tls={"enum": ["enable", "disable"]},
    sasl={"enum": ["plaintext", "scram_sha256", "scram_sha512"]},
    unsafeSsl={"const": "false"},
)
PROMETHEUS_TRIGGER = closed(
    "serverAddress",
    "query",
    "threshold",
    "activationThreshold",
    serverAddress=TEXT,
    query=TEXT,
    threshold={"type": "string", "pattern": "^[0-9.]+$"},
    activationThreshold={"type": "string", "pattern": "^[0-9.]+$"},
    ignoreNullValues={"enum": ["true", "false"]},
    namespace=TEXT,
    timeout=TEXT,
    customHeaders=TEXT,
    queryParameters=TEXT,
    authModes=TEXT,
)
_SCALING = closed(
    "stabilizationWindowSeconds",
    "policies",
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    tolerance=TEXT,
    policies=many(
        closed("type", "value", "periodSeconds", type={"enum": ["Pods"]}, value=COUNT, periodSeconds={"maximum": 1800})
    ),
)


def _trigger(kind: str, metadata: Schema) -> Schema:
    return closed(
        "type",
        "name",
        "metadata",
        type={"const": kind},
        name=TEXT,
        metricType={"enum": ["AverageValue", "Value"]},
        metadata=metadata,
        authenticationRef=closed("name", name=TEXT),
    )


SCHEMAS: dict[str, Schema] = {
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            "scaleTargetRef",
            "triggers",
            "minReplicaCount",
            "maxReplicaCount",
            scaleTargetRef=closed("name", name=TEXT),
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            fallback=closed("failureThreshold", "replicas", failureThreshold=COUNT, replicas=COUNT),
            advanced=closed(
                restoreToOriginalReplicaCount={"type": "boolean"},
                horizontalPodAutoscalerConfig=closed(
                    name=TEXT, behavior=closed("scaleUp", "scaleDown", scaleUp=_SCALING, scaleDown=_SCALING)
                ),
            ),
            triggers=many(
                {"oneOf": [_trigger("kafka", KAFKA_TRIGGER), _trigger("prometheus", PROMETHEUS_TRIGGER)]},
            ),
        ),
    ),
    "TriggerAuthentication": resource(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        closed(
            "secretTargetRef",
            secretTargetRef=many(
                closed(
                    "parameter",
                    "name",
                    "key",
                    parameter={"enum": ["username", "password", "ca", "cert", "key"]},
                    name=TEXT,
                    key=TEXT,
                )
            ),
        ),
    ),
    "PodMonitor": resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        closed(
            "selector",
            "podMetricsEndpoints",
            selector=closed("matchLabels", matchLabels=TEXTS),
            podMetricsEndpoints=many(closed("port", "path", port=TEXT, path=TEXT, interval=TEXT)),
        ),
    ),
    "ServiceMonitor": resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            "selector",
            "endpoints",
            selector=closed("matchLabels", matchLabels=TEXTS),
            endpoints=many(closed("port", "path", port=TEXT, path=TEXT, interval=TEXT)),
        ),
    ),
    "PrometheusRule": resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed(
            "groups",
            groups=many(
                closed(
                    "name",
                    "rules",
                    name=TEXT,
                    rules=many(
                        {
                            "oneOf": [
                                closed(
                                    "alert",
                                    "expr",
                                    "labels",
                                    "annotations",
                                    alert=TEXT,
                                    expr=TEXT,
                                    labels=TEXTS,
                                    annotations=TEXTS,
                                    **{"for": TEXT},
                                ),
                                closed("record", "expr", record=TEXT, expr=TEXT, labels=TEXTS),
                            ]
                        }
                    ),
                )
            ),
        ),
    ),
}
