"""Writes the chart's Grafana dashboard from the table below: `python -m tests.helm.dashboard`.

A test compares the file with the table, and every query with the metrics that a worker and a gateway export. In the
table's queries `$all` selects the chosen namespaces, `$pods` the chosen workers, too, `$calls` the calls that are
neither probes nor scrapes, and `$step` is Grafana's interval for rates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).resolve().parents[2] / "helm" / "darkroom" / "dashboards" / "darkroom.json"
WIDTH: Final = 24
"""Columns of Grafana's grid."""
_SHORTHAND: Final = {
    "$all": 'namespace=~"$namespace"',
    "$pods": 'namespace=~"$namespace",pod=~"$pod"',
    "$calls": 'route!~"/livez|/readyz|/metrics"',
    "$step": "$__rate_interval",
}
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_LINES: Final = {"drawStyle": "line", "fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
_LAST: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}


@dataclass(frozen=True)
class Row:
    """A heading, above the panels that follow it."""

    title: str


class Panel:
    """A panel: its title, its description, Grafana's unit, and its queries with their legends."""

    def __init__(
        self,
        title: str,
        description: str,
        unit: str,
        *queries: tuple[str, str],
        is_ratio: bool = False,
        is_stacked: bool = False,
    ) -> None:
        self.title = title
        self.description = description
        self.unit = unit
        self.queries = queries
        self.is_ratio = is_ratio
        self.is_stacked = is_stacked


class Stat(Panel):
    """The latest value of one query."""


class Graph(Panel):
    """Lines over time."""


TABLE: Final[tuple[Row | Panel, ...]] = (
    Row("At a glance"),
    Stat(
        "Backlog",
        "Records without an outcome, by the workers' own count.",
        "short",
        ("", "sum(darkroom_lag_records{$all})"),
    ),
    Stat(
        "Oldest request",
        "Age of the oldest request that a worker holds: the true lag in time.",
        "s",
        ("", "max(darkroom_oldest_request_age_seconds{$all})"),
    ),
    Stat(
        "Workers",
        "Workers that are scraped.",
        "short",
        ("", "count(darkroom_waiting_rows{$all})"),
    ),
    Stat(
        "Images per second",
        "Images of requests that succeeded.",
        "short",
        ("", "sum(rate(darkroom_images_total{$all}[$step]))"),
    ),
    Stat(
        "Failed",
        "Share of outcomes that failed.",
        "percentunit",
        (
            "",
            '(sum(rate(darkroom_requests_total{$all,status="failed"}[$step])) or vector(0)) '
            "/ sum(rate(darkroom_requests_total{$all}[$step]))",
        ),
    ),
    Stat(
        "USD per 1,000 images",
        "Cost of the devices, idle time included, over the last hour.",
        "currencyUSD",
        (
            "",
            "1000 * sum(avg_over_time(darkroom_device_usd_per_hour{$all}[1h])) "
            "/ sum(increase(darkroom_images_total{$all}[1h]))",
        ),
    ),
    Row("Lag"),
    Graph(
        "Lag by partition",
        "A partition whose lag stays while the others' fall is stuck.",
        "short",
        ("{{topic}} {{partition}}", "max by (topic, partition) (darkroom_lag_records{$all})"),
        is_stacked=True,
    ),
    Graph(
        "Lag in seconds",
        "Device seconds of each worker's backlog, by its measured profile; and the oldest request.",
        "s",
        ("{{pod}}", "darkroom_lag_seconds{$pods}"),
        ("oldest request", "max(darkroom_oldest_request_age_seconds{$all})"),
    ),
    Graph(
        "Lag as KEDA sees it",
        "Follows the workers' count. A difference is control records, or a broker that hangs.",
        "short",
        ("KEDA {{scaledObject}}", 'sum by (scaledObject) (keda_scaler_metrics_value{$all,scaler="lag"})'),
        ("workers", "sum(darkroom_lag_records{$all})"),
        (
            "KEDA's errors per second {{scaledObject}}",
            "sum by (scaledObject) (rate(keda_scaled_object_errors_total{$all}[$step]))",
        ),
    ),
    Row("Throughput and outcomes"),
    Graph(
        "Outcomes per second",
        "Outcomes by status.",
        "reqps",
        ("{{status}}", "sum by (status) (rate(darkroom_requests_total{$pods}[$step]))"),
        ("replayed", "sum(rate(darkroom_replayed_total{$pods}[$step]))"),
        ("dead letters", "sum(rate(darkroom_dead_letters_total{$pods}[$step]))"),
    ),
    Graph(
        "Error ratio",
        "Share of failed outcomes.",
        "percentunit",
        (
            "failed",
            'sum(rate(darkroom_requests_total{$pods,status="failed"}[$step])) '
            "/ sum(rate(darkroom_requests_total{$pods}[$step]))",
        ),
        is_ratio=True,
    ),
    Graph(
        "Faults per second",
        "By kind and code: out_of_memory and store_unavailable fail no request.",
        "short",
        ("{{kind}} {{code}}", "sum by (kind, code) (rate(darkroom_faults_total{$pods}[$step]))"),
    ),
    Graph(
        "Time from event to outcome",
        "End to end: percentiles of the requests.",
        "s",
        ("p50", "histogram_quantile(0.5, sum by (le) (rate(darkroom_end_to_end_seconds_bucket{$pods}[$step])))"),
        ("p95", "histogram_quantile(0.95, sum by (le) (rate(darkroom_end_to_end_seconds_bucket{$pods}[$step])))"),
        ("p99", "histogram_quantile(0.99, sum by (le) (rate(darkroom_end_to_end_seconds_bucket{$pods}[$step])))"),
    ),
    Graph(
        "Stage times, p95",
        "Where a request's time goes.",
        "s",
        (
            "{{stage}}",
            "histogram_quantile(0.95, sum by (le, stage) (rate(darkroom_stage_seconds_bucket{$pods}[$step])))",
        ),
        ("render", "histogram_quantile(0.95, sum by (le) (rate(darkroom_render_seconds_bucket{$pods}[$step])))"),
        (
            "transaction",
            "histogram_quantile(0.95, sum by (le) (rate(darkroom_transaction_seconds_bucket{$pods}[$step])))",
        ),
    ),
    Graph(
        "Cost per image",
        "Device time alone, and with idle time.",
        "currencyUSD",
        (
            "device time",
            "sum(rate(darkroom_device_seconds_total{$all}[10m])) / sum(rate(darkroom_images_total{$all}[10m])) "
            "* avg(darkroom_device_usd_per_hour{$all}) / 3600",
        ),
        (
            "with idle time",
            "sum(darkroom_device_usd_per_hour{$all}) / 3600 / sum(rate(darkroom_images_total{$all}[10m]))",
        ),
    ),
    Row("Devices and batches"),
    Graph(
        "Device busy",
        "Share of the time spent in a denoising step, by the worker's clock.",
        "percentunit",
        ("{{pod}}", "darkroom_device_busy_ratio{$pods}"),
        is_ratio=True,
    ),
    Graph(
        "Device utilization",
        "Share of the time in which a kernel ran, by NVML; absent without a GPU.",
        "percentunit",
        ("{{pod}}", "darkroom_device_utilization_ratio{$pods}"),
        is_ratio=True,
    ),
    Graph(
        "Device memory",
        "Allocated, reserved and total.",
        "bytes",
        ("{{pod}} {{kind}}", "darkroom_device_memory_bytes{$pods}"),
    ),
    Graph(
        "Batch fill",
        "Mean rows per step, and waiting and active images.",
        "short",
        (
            "{{pod}} rows per step",
            "sum by (pod) (rate(darkroom_batch_rows_sum{$pods}[$step])) "
            "/ sum by (pod) (rate(darkroom_batch_rows_count{$pods}[$step]))",
        ),
        ("waiting images", "sum(darkroom_waiting_rows{$pods})"),
        ("active images", "sum(darkroom_active_rows{$pods})"),
    ),
    Graph(
        "Step time and wait between steps, p95",
        "The device should wait far less than a step takes.",
        "s",
        ("step", "histogram_quantile(0.95, sum by (le) (rate(darkroom_step_seconds_bucket{$pods}[$step])))"),
        ("wait", "histogram_quantile(0.95, sum by (le) (rate(darkroom_device_wait_seconds_bucket{$pods}[$step])))"),
    ),
    Graph(
        "Cache hits",
        "Prompts, poses and adapters: hits per look-up.",
        "percentunit",
        (
            "{{cache}}",
            "sum by (cache) (rate(darkroom_cache_hits_total{$pods}[$step])) "
            "/ (sum by (cache) (rate(darkroom_cache_hits_total{$pods}[$step])) "
            "+ sum by (cache) (rate(darkroom_cache_misses_total{$pods}[$step])))",
        ),
        is_ratio=True,
    ),
    Row("Workers"),
    Graph(
        "Fences, rebalances, restarts",
        "A rebalance pauses the whole group; a fence is a zombie or a slow coordinator.",
        "short",
        ("rebalances", "sum(increase(darkroom_rebalances_total{$pods}[$step]))"),
        ("fenced", "sum(increase(darkroom_fenced_total{$pods}[$step]))"),
        ("restarts", 'sum(increase(kube_pod_container_status_restarts_total{$pods,container="worker"}[$step]))'),
        ("model loads", "sum(increase(darkroom_model_loads_total{$pods}[$step]))"),
    ),
    Graph(
        "Event loop delay and offset window",
        "A delay of seconds loses heartbeats; the window ends at 512 by default.",
        "short",
        ("delay {{pod}}", "darkroom_event_loop_delay_seconds{$pods}"),
        ("widest window (offsets)", "max(darkroom_offset_window{$pods})"),
    ),
    Graph(
        "Model cache and unstored pictures",
        "Bytes on disk, and bytes that wait for the store.",
        "bytes",
        ("cache {{pod}}", "darkroom_model_cache_bytes{$pods}"),
        ("least free disk", "min(darkroom_model_cache_disk_free_bytes{$pods})"),
        ("unsettled", "sum(darkroom_unsettled_bytes{$pods})"),
        ("store away (1)", "max(darkroom_store_breaker_open{$pods})"),
    ),
    Row("Gateway"),
    Graph(
        "Calls per second",
        "By route and status, without probes and scrapes; unknown paths have the route none.",
        "short",
        ("{{route}} {{status}}", "sum by (route, status) (rate(darkroom_gateway_calls_total{$all,$calls}[$step]))"),
    ),
    Graph(
        "Time to first byte",
        "Percentiles of the calls. /generate and calls with ?wait include the time that they wait for a job.",
        "s",
        (
            "p50",
            "histogram_quantile(0.5, sum by (le) (rate(darkroom_gateway_call_seconds_bucket{$all,$calls}[$step])))",
        ),
        (
            "p95",
            "histogram_quantile(0.95, sum by (le) (rate(darkroom_gateway_call_seconds_bucket{$all,$calls}[$step])))",
        ),
        (
            "p99",
            "histogram_quantile(0.99, sum by (le) (rate(darkroom_gateway_call_seconds_bucket{$all,$calls}[$step])))",
        ),
    ),
    Graph(
        "Time to first byte by route, p95",
        "A slow route waits for the store, for Kafka or for a job.",
        "s",
        (
            "{{method}} {{route}}",
            "histogram_quantile(0.95, sum by (le, method, route) "
            "(rate(darkroom_gateway_call_seconds_bucket{$all,$calls}[$step])))",
        ),
    ),
    Graph(
        "Server errors and unready gateways",
        "Share of 5xx responses without 504, which is a long job; and gateways whose probes fail.",
        "short",
        (
            "share of 5xx",
            '(sum(rate(darkroom_gateway_calls_total{$all,$calls,status=~"5..",status!="504"}[$step])) or vector(0)) '
            "/ sum(rate(darkroom_gateway_calls_total{$all,$calls}[$step]))",
        ),
        (
            "gateways not ready",
            'count(sum by (pod) (rate(darkroom_gateway_calls_total{$all,route="/readyz",status="503"}[$step])) > 0)',
        ),
    ),
    Graph(
        "Refusals per second",
        "Problems returned, by code; kafka_away and store_away are not the callers' fault.",
        "short",
        ("{{code}}", "sum by (code) (rate(darkroom_gateway_refused_total{$all}[$step]))"),
    ),
    Graph(
        "Quota and policy refusals per second",
        "Calls above the rate, jobs above the limit of unfinished ones, and rejected prompts by category.",
        "short",
        ("{{code}}", "sum by (code) (rate(darkroom_access_quota_refusals_total{$all}[$step]))"),
        ("policy {{category}}", "sum by (category) (rate(darkroom_policy_rejections_total{$all}[$step]))"),
    ),
    Graph(
        "Jobs per second",
        "Accepted jobs, repetitions of accepted ones, and claims whose missing event was sent later.",
        "short",
        ("accepted", "sum(rate(darkroom_gateway_accepted_total{$all}[$step]))"),
        ("repeated", "sum(rate(darkroom_gateway_repeated_total{$all}[$step]))"),
        ("repaired", "sum(rate(darkroom_gateway_repaired_total{$all}[$step]))"),
    ),
    Graph(
        "Event streams and waiting calls",
        "Open event streams, and all calls and streams that wait for a job, by gateway.",
        "short",
        ("streams {{pod}}", "sum by (pod) (darkroom_gateway_event_streams{$all})"),
        ("waiting {{pod}}", "sum by (pod) (darkroom_gateway_waiting{$all})"),
    ),
    Graph(
        "Access control failures",
        "Failed reloads of keys and policy, failed fetches of the provider's keys, and failures of Redis.",
        "short",
        ("file of {{file}}", "sum by (file) (increase(darkroom_access_file_failures_total{$all}[$step]))"),
        ("identity provider", "sum(increase(darkroom_access_provider_failures_total{$all}[$step]))"),
        ("Redis", "sum(increase(darkroom_access_redis_failures_total{$all}[$step]))"),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard that the table describes."""
    return {
        "uid": "darkroom",
        "title": "Darkroom",
        "tags": ["darkroom"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "timezone": "",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                },
                _variable("namespace", "Namespace", "darkroom_waiting_rows"),
                _variable("pod", "Worker", 'darkroom_waiting_rows{namespace=~"$namespace"}'),
            ]
        },
        "annotations": {"list": []},
        "panels": list(_placed()),
    }


def _placed() -> list[dict[str, Any]]:
    """Return the panels from left to right and from top to bottom."""
    panels: list[dict[str, Any]] = []
    x = y = height = 0
    for number, entry in enumerate(TABLE, 1):
        size = {Row: (WIDTH, 1), Stat: (4, 4), Graph: (8, 8)}[type(entry)]
        if x + size[0] > WIDTH:
            x, y = 0, y + height
        place = {"h": size[1], "w": size[0], "x": x, "y": y}
        x, height = x + size[0], size[1]
        if isinstance(entry, Row):
            row = {"type": "row", "title": entry.title, "collapsed": False, "gridPos": place, "panels": []}
            panels.append({"id": number, **row})
        else:
            panels.append({"id": number, **_panel(entry), "gridPos": place})
    return panels


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"reduceOptions": _LAST, "colorMode": "value", "graphMode": "area"}
    if isinstance(panel, Graph):
        stacking = {"stacking": {"mode": "normal", "group": "A"}} if panel.is_stacked else {}
        defaults["custom"] = _LINES | stacking
        options = {
            "tooltip": {"mode": "multi", "sort": "desc"},
            "legend": {"displayMode": "list", "placement": "bottom"},
        }
    if panel.is_ratio:
        defaults["max"] = 1
    return {
        "type": "stat" if isinstance(panel, Stat) else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": _spelled_out(query), "legendFormat": legend}
            for at, (legend, query) in enumerate(panel.queries)
        ],
        "options": options,
    }


def _spelled_out(query: str) -> str:
    for name, text in _SHORTHAND.items():
        query = query.replace(name, text)
    return query


def _variable(name: str, label: str, metric: str) -> dict[str, Any]:
    """Return a variable with the values that a label has in a metric."""
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
