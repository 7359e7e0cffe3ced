"""Proves that every example renders, lints, and is what Kubernetes and KEDA take, misspelt fields included."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml

from tests.autoscale import binaries
from tests.helm.chart import EXAMPLES, LOADER, Manifest, notes, render, values_of, with_values
from tests.helm.crds import KAFKA_TRIGGER, PROMETHEUS_TRIGGER, SCHEMAS, Schema

OLDEST, NEWEST = "1.30", "1.37"
"""The oldest Kubernetes that Chart.yaml takes, and the newest whose schemas are at hand."""
LAPTOP, FLEET = (next(one for one in EXAMPLES if one.stem == name) for name in ("laptop", "fleet"))
KEDA = binaries.crds_in(binaries.folder())
"""What `make control-plane` leaves of KEDA's own definitions."""

VARIANTS: dict[str, dict[str, Any]] = {
    **{example.stem: values_of(example) for example in EXAMPLES},
    "plain autoscaler": with_values(values_of(FLEET), {"autoscaling.mode": "hpa", "autoscaling.minReplicas": 1}),
    "claim, mutual TLS, paused": with_values(
        values_of(FLEET),
        {
            "worker.cache": {"type": "pvc", "sizeGi": 100, "accessMode": "ReadWriteMany", "storageClassName": "nfs"},
            "secrets.kafka.certificate": "tls.crt",
            "secrets.kafka.key": "tls.key",
            "autoscaling.keda.pausedReplicas": 0,
            "autoscaling.keda.kafka.metadata": {"ensureEvenDistributionOfPartitions": True},
            "autoscaling.behavior.scaleUp.tolerance": 0,
            "worker.preStopSeconds": 3,
            "init.growPartitions": True,
            "tests.request": True,
        },
    ),
    "next to nothing": with_values(
        values_of(LAPTOP),
        {
            "init.enabled": False,
            "tests.enabled": False,
            "worker.podDeletionCost": False,
            "monitoring.scrapeAnnotations": False,
            "secrets.s3.name": "",
            "worker.topologySpread": [],
        },
    ),
}


@cache
def validator(kind: str, api_version: str, version: str) -> jsonschema.protocols.Validator:
    """Of Kubernetes' own schemas, closed: unknown fields are errors."""
    if kind in SCHEMAS:
        return jsonschema.Draft202012Validator(SCHEMAS[kind])
    folder = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{version}.0-local-strict"
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number)))
    schema = json.loads((folder / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=definitions(folder))


@cache
def definitions(folder: Path) -> referencing.Registry[Any]:
    content = json.loads((folder / "_definitions.json").read_text())
    resource = referencing.Resource.from_contents(content)
    # Crawled once: every lookup in a registry that is not would crawl these ten megabytes anew.
    return referencing.Registry().with_resource("_definitions.json", resource).crawl()


def check(manifest: Manifest, version: str) -> None:
    validator(manifest["kind"], manifest["apiVersion"], version).validate(manifest)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_manifest_is_what_its_api_takes(name: str) -> None:
    manifests = render(VARIANTS[name])
    assert len(manifests) >= 3
    for manifest in manifests:
        check(manifest, NEWEST)


def test_the_oldest_kubernetes_takes_the_fullest_example() -> None:
    for manifest in render(VARIANTS["fleet"]):
        check(manifest, OLDEST)


def test_a_misspelt_field_is_an_error() -> None:
    scaled = next(one for one in render(VARIANTS["fleet"]) if one["kind"] == "ScaledObject")
    trigger = scaled["spec"]["triggers"][0]
    trigger["metadata"]["lagTreshold"] = trigger["metadata"].pop("lagThreshold")
    with pytest.raises(jsonschema.ValidationError, match="lagTreshold"):
        check(scaled, NEWEST)
    deployment = next(one for one in render(VARIANTS["fleet"]) if one["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(jsonschema.ValidationError, match="terminationGracePeriod"):
        check(deployment, NEWEST)


@pytest.mark.proof  # `make control-plane` fetches them
@pytest.mark.parametrize("kind", ["ScaledObject", "TriggerAuthentication"])
def test_kedas_own_definitions_take_them(kind: str) -> None:
    definition = yaml.load((KEDA / f"keda.sh_{kind.lower()}s.yaml").read_text(), LOADER)
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1alpha1")
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    for variant in VARIANTS.values():
        for manifest in render(variant):
            if manifest["kind"] == kind:
                jsonschema.validate(manifest, schema)


def _closed(schema: Any) -> Any:
    """With `additionalProperties: false` wherever properties are listed, as the API server prunes them silently."""
    if isinstance(schema, dict):
        closed = {name: _closed(value) for name, value in schema.items()}
        if "properties" in closed and "additionalProperties" not in closed:
            closed["additionalProperties"] = False
        return closed
    return [_closed(one) for one in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("name", VARIANTS)
def test_names_are_unique_and_selectors_match_their_pods(name: str) -> None:
    manifests = render(VARIANTS[name])
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(names) == len(set(names))
    pods: list[Manifest] = [one["spec"]["template"] for one in manifests if one["kind"] == "Deployment"]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if not selector or manifest["kind"] == "NetworkPolicy":
            continue
        wanted = selector.get("matchLabels", selector)
        labels = [pod["metadata"]["labels"] for pod in pods]
        if manifest["kind"] == "ServiceMonitor":
            labels = [one["metadata"]["labels"] for one in manifests if one["kind"] == "Service"]
        assert sum(wanted.items() <= one.items() for one in labels) == 1, manifest["metadata"]["name"]


def test_the_notes_say_how_to_reach_it() -> None:
    assert "https://pictures.internal/" in notes(VARIANTS["fleet"])
    assert "0 to 24 workers, by keda" in notes(VARIANTS["fleet"])
    laptop = notes(VARIANTS["laptop"])
    assert "built-in tiny model" in laptop
    assert "port-forward" in notes(VARIANTS["single-gpu"])


@pytest.mark.proof  # `make control-plane` fetches the list
@pytest.mark.parametrize(("kind", "ours"), [("kafka", KAFKA_TRIGGER), ("prometheus", PROMETHEUS_TRIGGER)])
def test_keda_knows_every_name_of_the_triggers_metadata(kind: str, ours: Schema) -> None:
    listed = json.loads((KEDA / binaries.KEDA_TRIGGERS).read_text())
    (trigger,) = (one for one in listed["scalers"] if one["type"] == kind)
    assert ours["properties"].keys() <= {parameter["name"] for parameter in trigger["parameters"]}
