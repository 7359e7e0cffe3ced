"""Proves that the bench's peers are real: they answer on the stack, group what may share a call, are counted right."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.inference.planning.profile_store import encode_profile
from darkroom.schemas.events.request import GenerationRequest
from tests.bench.peers.contenders import BATCH, DARKROOM, ENDPOINT, PLAIN, Kind, Worked
from tests.bench.peers.goals import Goal
from tests.bench.peers.kill_page import Fates, fates
from tests.bench.peers.loads import CURVES, alone_s, backlog, curve, mixed, poisson, uniform
from tests.bench.peers.measuring import joins, measured, running
from tests.bench.peers.painting import groups
from tests.bench.peers.scale_page import steady_rate
from tests.bench.peers.stand_in import StandInControlNetPipeline, StandInPipeline
from tests.inference.profiles import profile, shape

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack


# --- Loads --------------------------------------------------------------------------------------------------------


def test_a_load_is_the_seed_s_and_mixed_as_it_says() -> None:
    def asked(load: tuple[GenerationRequest, ...]) -> list[Any]:
        return [one.model_dump(exclude={"request_id"}) for one in load]

    assert asked(mixed(40, 1)) == asked(mixed(40, 1))
    assert asked(mixed(40, 1)) != asked(mixed(40, 2))
    load = mixed(600, 3)
    assert {one.steps for one in load} == {20, 25, 30, 40}
    assert {one.guidance_scale for one in load} == {1.0, 5.0, 7.5}
    assert sum(one.pose is None for one in load) / len(load) == pytest.approx(1 / 3, abs=0.06)
    assert len({(one.steps, one.guidance_scale, one.pose is None) for one in uniform(20, 3)}) == 1


def test_arrivals_have_their_rate() -> None:
    load = poisson(uniform(2000, 1), per_second=4.0, seed=1)
    assert load.at_s == tuple(sorted(load.at_s))
    assert len(load) / load.at_s[-1] == pytest.approx(4.0, rel=0.1)


def test_curves_gain_what_their_names_say() -> None:
    gains = {name: curve(name).rows_per_second(8, 8, 8) / curve(name).rows_per_second(8, 8, 1) for name in CURVES}
    assert gains["tiny"] > 3
    assert gains["gpu-512"] == pytest.approx(3.1, rel=0.01)
    assert gains["gpu-1024"] == pytest.approx(1.035, rel=0.01)
    assert gains["flat"] == pytest.approx(1.0, rel=0.001)
    guided, unguided = (
        GenerationRequest(request_id="one", prompt="a figure", steps=20, guidance_scale=scale) for scale in (5.0, 1.0)
    )
    assert alone_s(guided, curve("flat")) == pytest.approx(2 * alone_s(unguided, curve("flat")), rel=0.001)


# --- The pipeline and who calls it ----------------------------------------------------------------------------------


@pytest.mark.render
@pytest.mark.parametrize(
    ("stand_in", "name"),
    [
        (StandInPipeline, "StableDiffusionXLPipeline"),
        (StandInControlNetPipeline, "StableDiffusionXLControlNetPipeline"),
    ],
)
def test_a_stand_in_is_called_as_diffusers_pipeline_is(stand_in: type[Any], name: str) -> None:
    import diffusers

    theirs: Any = inspect.unwrap(getattr(diffusers, name).__call__)

    def parameters(call: Any) -> list[tuple[str, Any, Any]]:
        return [(one.name, one.kind, one.default) for one in inspect.signature(call).parameters.values()]

    assert parameters(stand_in.__call__) == parameters(theirs)


def test_a_stand_in_takes_what_the_profile_says_for_the_whole_batch(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_bytes(encode_profile(profile(shape(lambda slots: 2.0 + slots, posed=True))))
    steps: list[int] = []

    def told(_pipeline: Any, step: int, _timestep: Any, _values: dict[str, Any]) -> None:
        steps.append(step)

    pictures = StandInPipeline.from_profile(file)(
        ["a", "b", "a"], num_inference_steps=3, guidance_scale=5.0, callback_on_step_end=told
    ).images
    assert steps == [0, 1, 2]
    assert [picture.size for picture in pictures] == [(64, 64)] * 3
    assert pictures[0].tobytes() == pictures[2].tobytes() != pictures[1].tobytes()
    with pytest.raises(ValueError, match="1 images were given for 2 prompts"):
        StandInControlNetPipeline.from_profile(file)(["a", "b"], image=[pictures[0]], num_inference_steps=1)


def test_only_alike_requests_share_a_call_and_calls_are_filled() -> None:
    def asked(steps: int, guidance: float, pose: bool, side: int = 64) -> dict[str, Any]:
        size = {"width": side, "height": side}
        return {"steps": steps, "guidance_scale": guidance, "pose": {"image": {}} if pose else None, **size}

    requests = [asked(20, 5.0, True), asked(25, 5.0, True), asked(20, 5.0, True), asked(20, 1.0, True)]
    requests += [asked(20, 5.0, False), asked(20, 5.0, True), asked(20, 5.0, True, 128)]
    assert groups(requests) == [[0, 2, 5], [1], [3], [4], [6]]
    assert groups(requests, rows_max=2) == [[0, 2], [1], [3], [4], [5], [6]]
    assert [len(call) for call in groups([asked(20, 5.0, True)] * 19)] == [8, 8, 3]


@pytest.mark.stack
@pytest.mark.parametrize("kinds", [(ENDPOINT, PLAIN, BATCH, DARKROOM)])
async def test_everybody_answers_on_the_stack(stack: Stack, tmp_path: Path, kinds: tuple[Kind, ...]) -> None:
    file = tmp_path / "profile.json"
    file.write_bytes(encode_profile(profile(shape(lambda slots: 1.0 + slots / 100, posed=True))))

    async def figures_of(kind: Kind) -> dict[str, Any]:
        async with running(stack.environment, tmp_path, kind, file) as started:
            figures = await measured(started, backlog(uniform(4, 1)), profile(shape(posed=True)))
            assert set(started.answers.counts.values()) == {1}
            return figures

    found = dict(zip(kinds, await asyncio.gather(*map(figures_of, kinds)), strict=True))
    for kind, figures in found.items():
        assert figures["requests"] == 4, kind
        assert 0 < figures["busy_ratio"] < 1, kind
        assert figures["cpu_ms_per_request"] > 0, kind
    assert found[ENDPOINT]["fill"] == found[PLAIN]["fill"] == 1.0
    assert found[DARKROOM]["fill"] > 1.0


# --- What is counted --------------------------------------------------------------------------------------------------


def test_lost_and_repeated_are_counted_by_request_id() -> None:
    assert fates(["a", "b", "c"], {"a": 1, "b": 1, "c": 1}) == Fates(3, 0, 0)
    assert fates(["a", "b", "c", "d"], {"a": 3, "c": 2, "other": 5}) == Fates(4, 2, 3)


def test_a_join_is_a_request_that_begins_while_another_is_under_way() -> None:
    def completion(began_s: float, seconds: float) -> dict[str, Any]:
        at = f"2026-01-01T00:00:{began_s + seconds:09.6f}Z"
        return {"completed_at": at, "timings_ms": {"denoise": seconds * 1000, "decode": 0.0}}

    together = [completion(1, 2), completion(1.01, 3), completion(1.02, 1)]
    assert joins(together) == 0
    assert joins([*together, completion(2.5, 4), completion(5, 1), completion(10, 1)]) == 2
    assert joins([{"request_id": "of a peer"}]) == 0


def test_the_steady_rate_leaves_out_both_ends() -> None:
    steady = [number / 10 for number in range(100)]
    assert steady_rate(steady) == pytest.approx(10.0)
    assert steady_rate([*steady[:90], *(100.0 + number for number in range(10))]) == pytest.approx(10.0)


def test_what_was_worked_is_a_difference() -> None:
    assert Worked(5.0, 10, 30).since(Worked(1.0, 4, 6)).fill == 4.0
    assert Worked().fill == 0.0


def test_a_goal_says_by_how_much_it_is_missed() -> None:
    assert Goal("", 1.31, 1.3).verdict == "met"
    assert Goal("", 1.17, 1.3).verdict == "missed by 10.0%"
    assert Goal("", 0.75, 0.6, at_least=False).verdict == "missed by 25.0%"
    assert Goal("", 2, 0, at_least=False).verdict == "missed by 2"


def test_curve_files_name_their_source() -> None:
    for name in CURVES:
        assert dict(curve(name).key.measured_on)["source"], name
