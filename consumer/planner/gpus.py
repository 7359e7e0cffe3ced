"""GPUs and what they cost: profiles and prices, each with where it is from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.inference.planning.capability import Capability, is_served, unserved
from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile, Ended, ProfileKey, ShapeProfile
from darkroom.inference.planning.profile_store import FILE_BYTES_MAX, ProfileError, decode_profile
from darkroom.inference.planning.step_curve import CurveError, StepCurve, read_curve
from darkroom.schemas.errors import bounded
from darkroom.schemas.faults import said

TERMS: Final = ("on_demand", "reserved", "spot")
PUBLISHED_ROWS: Final = 4
"""Batches that published figures are taken to: nothing is known beyond, and nothing gained."""
_NATIVE_LATENT: Final = 128
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
_Text = Annotated[str, Field(min_length=1, max_length=300)]


class GpuError(ValueError):
    """A GPU, price or profile that is not there or cannot be used: which, and what to do."""


class Price(BaseModel):
    """Price of one machine for an hour."""

    model_config = _STRICT

    usd_per_hour: float = Field(gt=0, le=10_000)
    source: _Text
    as_of: _Text
    status: Literal["published", "estimated", "given"]


class _Instance(BaseModel):
    model_config = _STRICT

    gpu: _Text
    guide: bool = False
    on_demand: Price | None = None
    reserved: Price | None = None
    spot: Price | None = None


class _Prices(BaseModel):
    model_config = _STRICT

    instance: dict[_Text, _Instance] = Field(max_length=1_000)


class _Build(BaseModel):
    model_config = _STRICT

    torch: _Text
    cuda: _Text
    architectures: tuple[_Text, ...]


class _Gpu(BaseModel):
    model_config = _STRICT

    capability: Capability
    step_ms: float = Field(gt=0)
    source: _Text
    status: Literal["published", "scaled"]


class _Shares(BaseModel):
    model_config = _STRICT

    controlnet: float = Field(ge=0)
    decode_steps: float = Field(ge=0)
    gain_of_two: float = Field(ge=1, le=2)


class _Gpus(BaseModel):
    model_config = _STRICT

    build: _Build
    gpu: dict[_Text, _Gpu]
    shares: _Shares


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker's machine: how fast it is, and what it costs."""

    name: str
    gpu: str
    term: str
    price: Price
    profile: DeviceProfile
    speed_status: str
    """measured, published or scaled."""
    speed_source: str
    unserved: str | None = None
    """Why the pinned torch does not run there. None where it does, and where a profile was measured: something ran."""


class Catalogue:
    """The instances that are known, with overrides."""

    def __init__(self, prices: Path | None = None) -> None:
        """`prices`: a file of the same form in place of ours. Raises `GpuError`."""
        self._instances = dict(_prices(prices).instance)

    @property
    def names(self) -> tuple[str, ...]:
        """All instances, in the file's order."""
        return tuple(self._instances)

    @property
    def guide(self) -> tuple[str, ...]:
        """The deployment guide's instances."""
        return tuple(name for name, one in self._instances.items() if one.guide)

    def override(self, name: str, usd_per_hour: float) -> None:
        """A price of the caller's, for every term. An instance that is not known gets an entry."""
        price = Price(usd_per_hour=usd_per_hour, source="--price", as_of="given", status="given")
        before = self._instances.get(name, _Instance(gpu=name))
        self._instances[name] = before.model_copy(update=dict.fromkeys(TERMS, price))

    def machine(self, name: str, term: str, profile: Path | None = None) -> Machine:
        """An instance by the hour. `profile`: a measured one, in place of published figures. Raises `GpuError`."""
        instance = self._instances.get(name)
        if instance is None:
            raise GpuError(
                f"There is no instance {name[:40]!r} in the price list: name one of {', '.join(self._instances)}, or "
                f"give its price with --price {name[:40]}=USD and its profile with --profile {name[:40]}=FILE."
            )
        price = getattr(instance, term)
        if price is None:
            raise GpuError(f"No {term.replace('_', ' ')} price of {name} is known: give one with --price {name}=USD.")
        if profile is not None:
            measured, source = read_profile(profile)
            return Machine(name, instance.gpu, term, price, measured, "measured", source)
        known = _gpus().gpu.get(instance.gpu)
        if known is None:
            raise GpuError(
                f"How fast {instance.gpu} is was not published to us: measure it with `darkroom calibrate --out DIR` "
                f"and give --profile {name}=DIR/profile-....json."
            )
        profile_known = published(instance.gpu)
        return Machine(
            name, instance.gpu, term, price, profile_known, known.status, known.source, _unserved(instance.gpu)
        )


def _unserved(gpu: str) -> str | None:
    build, capability = _gpus().build, _gpus().gpu[gpu].capability
    if is_served(capability, build.architectures):
        return None
    return unserved(gpu, capability, f"{build.torch} for CUDA {build.cuda}", build.architectures)


def published(gpu: str) -> DeviceProfile:
    """A GPU's profile from published figures, at SDXL's native size; smaller pictures are estimated from it."""
    known, shares = _gpus().gpu[gpu], _gpus().shares
    unet = {GUIDED_SLOTS: known.step_ms, 1: known.step_ms / 2 * shares.gain_of_two}
    for doubled in range(1, PUBLISHED_ROWS.bit_length()):
        gain = shares.gain_of_two if doubled == 1 else 1.0
        unet[GUIDED_SLOTS << doubled] = unet[GUIDED_SLOTS << doubled - 1] * 2 / gain
    controlnet = {slots: ms * shares.controlnet for slots, ms in unet.items()}
    shape = ShapeProfile(
        _NATIVE_LATENT,
        _NATIVE_LATENT,
        unet=StepCurve(unet),
        controlnet=StepCurve(controlnet),
        rest=None,
        decode_ms=known.step_ms * shares.decode_steps,
        rows_asked=PUBLISHED_ROWS,
        ended=Ended.ROWS_MAX,
    )
    return DeviceProfile(ProfileKey(known.status, "float16", "1", (("gpu", gpu),)), (shape,))


def read_profile(path: Path) -> tuple[DeviceProfile, str]:
    """A measured profile, or a curve file of milliseconds by rows, as `darkroom calibrate --out` writes both, and what
    it says of where it was measured. Raises `GpuError`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise GpuError(f"The profile {path} cannot be read ({error.strerror}): name one that can.") from error
    try:
        profile = decode_profile(content)
    except ProfileError as refused:
        try:
            curve = read_curve(path)
        except CurveError:
            raise GpuError(
                f"{path} is neither a profile ({refused}) nor a curve: write one with `darkroom calibrate --out DIR`."
            ) from refused
        return profile_of_curve(curve), f"the curve {path.name}"
    return profile, ", ".join(f"{name} {value}" for name, value in profile.key.measured_on) or path.name


def profile_of_curve(ms_by_rows: Mapping[int, float], *, latent: int = _NATIVE_LATENT) -> DeviceProfile:
    """The profile of a device that takes so long a step by rows, whatever they ask for: a simulated one's."""
    slots = {1: ms_by_rows[1]} | {GUIDED_SLOTS * rows: ms for rows, ms in ms_by_rows.items()}
    curve = StepCurve(slots)
    shape = ShapeProfile(latent, latent, curve, None, None, 0.0, max(ms_by_rows), Ended.ROWS_MAX)
    return DeviceProfile(ProfileKey("curve", "none", "1", ()), (shape,))


def _prices(path: Path | None) -> _Prices:
    shown = Path(__file__).with_name("prices.toml") if path is None else path
    return _Prices.model_validate(_table(shown, _Prices))


@cache
def _gpus() -> _Gpus:
    return _Gpus.model_validate(_table(Path(__file__).with_name("gpus.toml"), _Gpus))


def _table(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
        model.model_validate(table)
    except OSError as error:
        raise GpuError(f"The file {path} cannot be read ({error.strerror}): name one that can.") from error
    except tomllib.TOMLDecodeError as error:
        raise GpuError(
            f"The file {path} is not TOML ({error}): take consumer/planner/prices.toml as a pattern."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise GpuError(
            bounded(
                f"The file {path} cannot be used ({place}: {said(first)}): take consumer/planner/prices.toml as a "
                "pattern."
            )
        ) from error
    return table
