"""Start-up: names, errors and the command's front cost next to nothing, and only settings load the settings library."""

from __future__ import annotations

import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module", ["darkroom.schemas.names", "darkroom.schemas.errors", "darkroom.producer.cli.contracts"]
)
def test_light_modules_load_no_models(module: str) -> None:
    assert modules_after(f"import {module}").isdisjoint({"pydantic", "pydantic_settings", "asyncio"})


def test_events_load_neither_settings_nor_anything_that_renders_or_talks() -> None:
    loaded = modules_after("import darkroom.schemas.wire.codec, darkroom.schemas.publish")
    assert loaded.isdisjoint({"pydantic_settings", "torch", "numpy", "aiokafka", "minio"})
    assert not any(name.startswith(("darkroom.inference", "darkroom.producer")) for name in loaded)
    assert "pydantic" in loaded
