"""What names a model: a path, or a prefix in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.schemas.settings import SettingsError, load_settings, shown
from darkroom.schemas.settings.model_source import StorePrefix


def path_of(value: str) -> object:
    return load_settings(environ={"DARKROOM_MODEL__PATH": value}).model.path


@pytest.mark.parametrize(
    ("written", "bucket", "prefix", "name"),
    [
        ("s3://models/sdxl", "models", "sdxl", "sdxl"),
        ("s3://models/sdxl/base-1.0/", "models", "sdxl/base-1.0", "base-1.0"),
        ("s3://my.models/xl.safetensors", "my.models", "xl.safetensors", "xl.safetensors"),
    ],
)
def test_a_prefix_in_the_store(written: str, bucket: str, prefix: str, name: str) -> None:
    source = path_of(written)
    assert source == StorePrefix(bucket, prefix)
    assert isinstance(source, StorePrefix)
    assert source.name == name
    assert str(source) == written.rstrip("/")
    settings = load_settings(environ={"DARKROOM_MODEL__PATH": written})
    assert shown(settings)["model.path"]["value"] == written.rstrip("/")


@pytest.mark.parametrize("written", ["/models/sdxl", "models/sdxl", "./s3", "C:/models"])
def test_everything_else_is_a_path(written: str) -> None:
    assert path_of(written) == Path(written)


@pytest.mark.parametrize(
    "written", ["s3://models", "s3://models/", "s3:/models/a", "s3://Models/a", "s3://models/a/../b", "s3://models//a"]
)
def test_a_store_address_that_is_none_is_one_sentence(written: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_MODEL__PATH") as caught:
        path_of(written)
    assert "s3://bucket/prefix" in str(caught.value)
