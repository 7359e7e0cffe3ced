"""Proves what the worker's counters count where dashboards and alerts lean on them: images, cost, the model cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from darkroom.consumer.core.core import Core
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.weights.cache import ModelCache
from darkroom.consumer.weights.usage import CacheUsage, disk_of
from darkroom.consumer.worker.metrics import Metrics, WorkerGauges
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import JobRendered
from darkroom.inference.utilization import gpu_utilization
from darkroom.schemas.settings import load_settings


def test_cost_per_image_can_be_charted() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, usd_per_device_hour=1.2)
    metrics.on_engine(JobRendered("x", (), 1.0, 1.0, 2.5, 1, 1))
    metrics.on_engine(JobRendered("y", (), 1.0, 1.0, 0.5, 1, 1))
    assert registry.get_sample_value("darkroom_device_seconds_total") == 3.0
    assert registry.get_sample_value("darkroom_device_usd_per_hour") == 1.2


def test_a_full_model_cache_shows(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    registry = CollectorRegistry()
    overrides = {"model.cache_path": folder, "model.cache_bytes_max": 5_000_000}
    registry.register(CacheUsage(load_settings(overrides=overrides, environ={}).model))
    assert registry.get_sample_value("darkroom_model_cache_bytes") == 0
    ModelCache(folder, 5_000_000).hold("ab" * 32, 1234, lambda target: None)
    assert registry.get_sample_value("darkroom_model_cache_bytes") == 1234
    assert registry.get_sample_value("darkroom_model_cache_bytes_max") == 5_000_000
    free, total = disk_of(folder)
    assert 0 < free < total == registry.get_sample_value("darkroom_model_cache_disk_bytes")


@pytest.mark.parametrize("device", ["cpu", "simulated"])
def test_a_device_that_tells_no_utilization_has_none(device: str) -> None:
    assert gpu_utilization(device) is None


def test_refused_adapters_are_counted() -> None:
    device, registry = SimulatedDevice(0.0), CollectorRegistry()
    engine = LaneEngine(device, rows_max=1)
    registry.register(WorkerGauges(Core(Limits()).snapshot, engine, {}, {}, Metrics(registry), rows_max=1))
    assert registry.get_sample_value("darkroom_adapters_refused") == 0
    device._info = replace(device.info, adapters_refused={"ink": "It is torn.", "oil": "It is torn."})
    assert registry.get_sample_value("darkroom_adapters_refused") == 2
