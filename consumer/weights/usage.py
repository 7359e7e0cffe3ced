"""Measures how full the disk with the fetched models is. Reads what the cache wrote down itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from darkroom.consumer.weights.cache import ModelCache
from darkroom.consumer.weights.store import default_folder
from darkroom.schemas.settings import ModelSettings


def cache_folder(model: ModelSettings) -> Path:
    """Where models from the store are kept."""
    return model.cache_path or default_folder()


def disk_of(folder: Path) -> tuple[int, int]:
    """(free, total) bytes of the disk that a folder is on, or will be once it is made."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    usage = shutil.disk_usage(there)
    return usage.free, usage.total


class CacheUsage(Collector):
    """The gauges of the model cache, read when they are scraped."""

    def __init__(self, model: ModelSettings) -> None:
        self._folder = cache_folder(model)
        self._bytes_max = model.cache_bytes_max
        self._cache = ModelCache(self._folder, model.cache_bytes_max)

    def collect(self) -> list[Metric]:
        """All gauges."""
        free, total = disk_of(self._folder)
        return [
            _gauge("model_cache_bytes", "Models fetched and kept.", self._cache.bytes_held()),
            _gauge("model_cache_bytes_max", "What they may take.", self._bytes_max),
            _gauge("model_cache_disk_free_bytes", "Free on the disk that they are kept on.", free),
            _gauge("model_cache_disk_bytes", "The size of that disk.", total),
        ]


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"darkroom_{name}", documentation, value=value)
