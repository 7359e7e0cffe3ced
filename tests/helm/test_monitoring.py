"""Proves that every query of the dashboard and of the alerts names a metric that is exported, and that alerts fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from darkroom.consumer.core.core import Core
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.weights.usage import CacheUsage
from darkroom.consumer.worker.metrics import Metrics, WorkerGauges
from darkroom.consumer.worker.payload import Payload
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.gateway.access.assembly import access_of
from darkroom.producer.gateway.metrics import Metrics as GatewayMetrics
from darkroom.schemas.settings import load_settings
from tests.helm import dashboard
from tests.helm.chart import CHART, EXAMPLES, one, render, values_of, with_values
from tests.producer.gateway.house import House

ALERTS = CHART / "rules" / "darkroom.yaml"
ALERT_TESTS = Path(__file__).parent / "rules" / "alerts.yaml"
DASHBOARD = json.loads((CHART / "dashboards" / "darkroom.json").read_text())
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
FLEET = values_of(next(one for one in EXAMPLES if one.stem == "fleet"))

FOREIGN = {
    "keda_scaler_metrics_value": {"namespace", "metric", "scaledObject", "scaler", "triggerIndex", "type"},
    "keda_scaled_object_errors_total": {"namespace", "scaledObject"},
    "kube_pod_container_status_restarts_total": {"namespace", "pod", "container", "uid"},
}
"""Other exporters' metrics and labels: KEDA 2.21's pkg/metricscollector, kube-state-metrics' documentation."""
ONLY_ON_A_GPU = {"darkroom_device_utilization_ratio": set(), "darkroom_device_memory_bytes": {"kind"}}
NOT_HERE = {
    "darkroom_lag_records": {"topic", "partition"},
    "darkroom_committed_offset": {"topic", "partition"},
    "darkroom_cache_hits": {"cache"},
    "darkroom_cache_misses": {"cache"},
}
"""Labels of families that have no sample in a worker that holds no partition and has no model."""
SCRAPED = {"namespace", "pod"}
"""Labels that come from scraping."""


@cache
def exported() -> dict[str, set[str]]:
    """Every sample's name that a worker or a gateway exports, with its labels; from their own registries."""
    return ONLY_ON_A_GPU | names_in(worker()) | names_in(gateway()) | FOREIGN


def worker() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    registry.register(CacheUsage(load_settings(environ={}).model))
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=1)
    payloads: dict[Any, Payload] = {}
    registry.register(WorkerGauges(Core(Limits()).snapshot, engine, {}, payloads, metrics, rows_max=1))
    return registry


def gateway() -> CollectorRegistry:
    metrics = GatewayMetrics()
    access_of(load_settings(environ={}), metrics.registry)
    return metrics.registry


def names_in(registry: CollectorRegistry) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for family in registry.collect():
        labels = {label for sample in family.samples for label in sample.labels}
        labels |= NOT_HERE.get(family.name, set())
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        known = getattr(registry._names_to_collectors.get(family.name + suffixes[0]), "_labelnames", ())
        for suffix in suffixes:
            names[family.name + suffix] = labels | set(known) | ({"le"} if suffix == "_bucket" else set())
    return names


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]


GATEWAY_ROW = next(one for one in DASHBOARD["panels"] if one["title"] == "Gateway")
NAME = re.compile(r"\b((?:darkroom|keda|kube)_[a-z0-9_]+)\b(?:\{([^}]*)\})?")
ROUTE = re.compile(r'route!?[=~]+"([^"]*)"(?:,status="(\d+)")?')
CLAUSE = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@pytest.mark.parametrize(("where", "query"), list(queries()), ids=lambda value: value[:40])
def test_a_query_names_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    found = NAME.findall(query)
    assert found, where
    for name, matchers in found:
        assert name in exported(), f"{where}: nobody exports {name}"
        for label in re.findall(r"([a-zA-Z_]+)\s*(?:=~|!=|!~|=)", matchers):
            assert label in exported()[name] | SCRAPED, f"{where}: {name} has no label {label}"
    known = set().union(*(exported()[name] for name, _ in found)) | SCRAPED
    for clause in CLAUSE.findall(query):
        assert {label.strip() for label in clause.split(",")} <= known, f"{where}: {clause}"


def test_a_metric_that_nobody_exports_would_be_found() -> None:
    with pytest.raises(AssertionError, match="nobody exports darkroom_lag_record"):
        test_a_query_names_metrics_and_labels_that_there_are("here", "sum(darkroom_lag_record)")


async def test_the_routes_that_queries_name_are_the_gateways() -> None:
    """As its own registry has them after calls: the alert on unready gateways stands on one of them."""
    named = {(route, status) for _, query in queries() for route, status in ROUTE.findall(query)}
    routes = {(path, status) for path_or_paths, status in named for path in path_or_paths.split("|")}
    assert ("/readyz", "200") in routes
    assert ("/readyz", "503") in routes
    async with House().gateway() as replica:
        for path in sorted({path for path, _ in routes}):
            await replica.client.get(path)
        replica.gateway.is_closing = True
        await replica.client.get("/readyz")
        told = (await replica.client.get("/metrics")).text
    for path, status in routes:
        assert f'route="{path}",status="{status or 200}"' in told


@pytest.mark.parametrize(
    "panel", [one for one in DASHBOARD["panels"] if one["id"] > GATEWAY_ROW["id"]], ids=lambda p: p["title"]
)
def test_a_panel_of_gateways_does_not_ask_for_a_worker(panel: dict[str, Any]) -> None:
    """Its pods are not among those that the variable lists."""
    for target in panel["targets"]:
        assert "$pod" not in target["expr"]
        assert {name for name, _ in NAME.findall(target["expr"])} <= names_in(gateway()).keys()


def test_the_dashboard_shows_what_an_operator_asks_for() -> None:
    shown = " ".join(query for where, query in queries() if where.startswith("panel"))
    for name in (
        "lag_records",
        "lag_seconds",
        "oldest_request_age_seconds",
        "images_total",
        "batch_rows_sum",
        "device_busy_ratio",
        "device_utilization_ratio",
        "device_memory_bytes",
        "stage_seconds_bucket",
        "requests_total",
        "fenced_total",
        "rebalances_total",
        "device_usd_per_hour",
        "gateway_calls_total",
        "gateway_call_seconds_bucket",
        "gateway_accepted_total",
        "gateway_refused_total",
        "access_quota_refusals_total",
        "policy_rejections_total",
        "gateway_event_streams",
    ):
        assert f"darkroom_{name}" in shown, name
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["description"]


def test_every_alert_has_a_runbook_and_a_test() -> None:
    headings = {line.removeprefix("### ") for line in (CHART / "README.md").read_text().splitlines()}
    tested = {
        test["alertname"]
        for group in yaml.safe_load(ALERT_TESTS.read_text())["tests"]
        for test in group["alert_rule_test"]
        if test["exp_alerts"]
    }
    for rule in RULES:
        assert rule["alert"] in headings
        assert rule["alert"] in tested
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_alerts_reach_prometheus_with_their_runbooks() -> None:
    base = "https://docs.internal/darkroom"
    changes = {"monitoring.rules": {"enabled": True, "runbookBase": base, "disabled": ["DarkroomOldestRequest"]}}
    groups = one(render(with_values(FLEET, changes)), "PrometheusRule")["spec"]["groups"]
    rendered = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert rendered.keys() == {rule["alert"] for rule in RULES} - {"DarkroomOldestRequest"}
    for rule in RULES:
        if rule["alert"] in rendered:
            ours = rendered[rule["alert"]]
            assert ours["annotations"].pop("runbook_url") == f"{base}#{rule['alert'].lower()}"
            assert ours == rule


def test_the_dashboard_is_the_one_that_its_table_makes() -> None:
    remedy = "run `make schemas`, which writes the dashboard from the table in tests/helm/dashboard.py"
    assert dashboard.FILE.read_text() == dashboard.text(), remedy


def test_the_dashboard_reaches_grafana_unchanged() -> None:
    (config,) = (m for m in render(FLEET) if m["metadata"]["name"].endswith("-dashboard"))
    assert json.loads(config["data"]["darkroom.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="the alerts' tests were not run: promtool is missing (it comes with Prometheus: apt install prometheus)",
)
@pytest.mark.parametrize("arguments", [("check", "rules", str(ALERTS)), ("test", "rules", str(ALERT_TESTS))])
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
