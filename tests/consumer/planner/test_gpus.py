"""Proves what is said of GPUs: where each figure is from, and that a measured profile goes before all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.consumer.planner.gpus import Catalogue, GpuError, profile_of_curve, published, read_profile
from darkroom.inference.planning.profile_store import encode_profile
from tests.inference.profiles import profile


def test_the_deployment_guide_s_instances_have_its_prices() -> None:
    catalogue = Catalogue()
    prices = {name: catalogue.machine(name, "on_demand").price.usd_per_hour for name in catalogue.guide}
    assert prices == {"g4dn.xlarge": 0.526, "g5.2xlarge": 1.008, "p3.2xlarge": 3.06}
    assert all(catalogue.machine(name, term).price.source for name in catalogue.guide for term in ("reserved", "spot"))


def test_every_instance_s_gpu_has_a_speed_with_a_source() -> None:
    catalogue = Catalogue()
    for name in catalogue.names:
        machine = catalogue.machine(name, "on_demand")
        assert machine.speed_status in {"published", "scaled"}
        assert machine.speed_source
        assert machine.price.as_of


def test_published_figures_gain_next_to_nothing_by_batches() -> None:
    device = published("A10G")
    assert device.step_ms(128, 128, unet_slots=2, control_slots=0) == 313
    assert device.step_ms(128, 128, unet_slots=2, control_slots=2) == pytest.approx(313 * 1.49)
    assert device.cap(128, 128, rows_max=8) == 1
    assert device.rows_per_second(128, 128, 2) == pytest.approx(1.02 * device.rows_per_second(128, 128, 1))


def test_a_measured_profile_goes_before_published_figures(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(encode_profile(profile()))
    machine = Catalogue().machine("g4dn.xlarge", "on_demand", path)
    assert (machine.speed_status, machine.speed_source) == ("measured", "hardware made up")
    assert machine.profile == profile()


def test_a_curve_is_a_profile_too(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_text('{"1": 20, "2": 22, "4": 26, "8": 52}')
    device, source = read_profile(path)
    assert device == profile_of_curve({1: 20, 2: 22, 4: 26, 8: 52})
    assert "curve.json" in source
    assert [device.step_ms(8, 128, unet_slots=0, control_slots=0) > 0, device.cap(128, 128, rows_max=8)] == [True, 4]


def test_a_price_of_the_caller_s_makes_any_instance_known(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_text('{"1": 20}')
    catalogue = Catalogue()
    catalogue.override("mine", 0.25)
    catalogue.override("g4dn.xlarge", 0.4)
    assert catalogue.machine("mine", "reserved", path).price.usd_per_hour == 0.25
    assert catalogue.machine("g4dn.xlarge", "spot").price.status == "given"
    with pytest.raises(GpuError, match="darkroom calibrate"):
        catalogue.machine("mine", "spot")


def test_a_price_list_of_the_caller_s_replaces_ours(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        '[instance.box]\ngpu = "L4"\non_demand = {usd_per_hour = 0.5, source = "us", as_of = "now", status = "given"}\n'
    )
    catalogue = Catalogue(path)
    assert catalogue.names == ("box",)
    with pytest.raises(GpuError, match="No spot price of box"):
        catalogue.machine("box", "spot")


@pytest.mark.parametrize("text", ["[", "[instance.box]\ngpu = 3\n", '[instance.box]\ngpu = "L4"\nprice = 3\n'])
def test_a_price_list_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(GpuError, match="as a pattern"):
        Catalogue(path)


@pytest.mark.parametrize("text", ["", "{}", '{"2": 1}'])
def test_a_profile_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(GpuError, match="darkroom calibrate --out"):
        read_profile(path)
