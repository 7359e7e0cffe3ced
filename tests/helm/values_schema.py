"""Writes the part of values.schema.json that follows from Darkroom's settings: `python -m tests.helm.values_schema`.

The rest of the file is written by hand. A test compares, so that a setting that is new or renamed reaches the chart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from darkroom.schemas.settings import Settings

FILE = Path(__file__).resolve().parents[2] / "helm" / "darkroom" / "values.schema.json"
OURS = {
    ("worker", "name"): "the pod's name",
    ("worker", "pod_name"): "worker.podDeletionCost",
    ("worker", "metrics_host"): "all addresses of the pod",
    ("hooks", "file"): "secrets.hooks",
    ("hooks", "metrics_host"): "all addresses of the pod",
    ("hooks", "metrics_port"): "9109",
    ("model", "cache_path"): "worker.cache",
    ("model", "profile_dir"): "worker.cache",
    ("model", "compile_cache_dir"): "worker.cache",
}
"""Settings that the chart makes itself, and by which value."""
ANYTHING = ["string", "number", "boolean", "array", "null"]


def settings_schema() -> dict[str, Any]:
    """A closed object for each section, each setting with its description."""
    sections: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            sections[name] = {"type": ["string", "null"], "description": field.description}
            continue
        known = {
            setting: {"type": ANYTHING, "description": inner.description}
            for setting, inner in section.model_fields.items()
            if (name, setting) not in OURS
        }
        sections[name] = {"type": "object", "additionalProperties": False, "properties": known}
    return {"type": "object", "additionalProperties": False, "properties": sections}


def written() -> dict[str, Any]:
    content = json.loads(FILE.read_text())
    assert isinstance(content, dict)
    return content


def main() -> None:
    content = written()
    content["properties"]["settings"] = settings_schema()
    FILE.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
