"""The report's section on the engine, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.offline import WINDOW

EQUAL_GOAL, WINDOW_GOAL, SORTED_GOAL, OVERHEAD_GOAL = 1.0, 1.15, 1.0, 0.05
LANGUAGE_GOAL, MIXED_GOAL = 1.05, 1.6
SOLO_GOALS = {64: 2.5, 128: 1.6}


def section(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    rows = [
        *_equal_rows(figures),
        *_mixed_rows(figures),
        *_solo_rows(figures),
        *_overhead_rows(figures),
        *_language_rows(figures["language"]),
    ]
    return [
        "## The engine beside diffusers' pipeline",
        "",
        "The tiny model on a CPU, one torch thread, the process on one core. Both sides take resolved requests with "
        "different prompts, seeds and poses (skeleton pictures of the output's size), guided, and give PNG bytes: "
        "decoding the pose, prompts, VAE and PNG are counted for both. The pipeline is called with lists of up to 8 "
        "requests of equal settings. A ratio above 1 means that ours is faster. It is of CPU seconds, which on one "
        "core are the clock's seconds of a quiet machine; in brackets the lowest and highest of its turns, and the "
        "ratio by the clock, which whatever else ran on that core disturbs.",
        "",
        "| what | ratio | goal | |",
        "|---|---|---|---|",
        *(f"| {what} | {value} | {goal} | {verdict} |" for what, value, goal, verdict in rows),
        "",
        "With mixed steps the pipeline takes its requests in windows of arrival order, and calls once for each group "
        "of equal steps in a window of 16, twice what our engine holds on the device. Sorted, it sees all requests "
        "beforehand, and their numbers are such that no call is short.",
        "",
        *_curve_table(figures),
        "",
        "![By rows](engine.png)",
        "",
        *_lanes_table(figures),
        *_breakdown_table(figures),
    ]


Row = tuple[str, str, str, str]


def _row(what: str, figure: dict[str, Any], goal: float) -> Row:
    beside = f"{figure['ratio_min']:.2f} to {figure['ratio_max']:.2f}; by the clock {figure['clock_ratio']:.2f}"
    return what, f"{figure['ratio']:.2f} ({beside})", f"at least {goal}", _verdict(figure["ratio"] >= goal)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _equal_rows(figures: dict[str, Any]) -> list[Row]:
    return [
        _row(
            f"{one['side']} px, equal settings, batches of 8, {'with' if one['posed'] else 'without'} a pose",
            one,
            EQUAL_GOAL,
        )
        for one in figures["equal"]
    ]


def _mixed_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    for one in figures["mixed"]:
        calls = f"windows of {one['window']} (calls of {one['window_batch_mean']:.1f} requests)"
        rows.append(_row(f"{one['side']} px, mixed steps, {calls}", one["windows"], WINDOW_GOAL))
        rows.append(_row(f"{one['side']} px, mixed steps, all sorted beforehand", one["sorted"], SORTED_GOAL))
    return rows


def _solo_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    for curve in figures["curves"]:
        at_eight = next(point for point in curve["points"] if point["rows"] == 8)
        goal = SOLO_GOALS.get(curve["side"])
        value = f"{at_eight['ratio']:.2f} (by the clock {at_eight['clock_ratio']:.2f})"
        what = f"{curve['side']} px, 8 rows, against one call a request"
        if goal is None:
            rows.append((what, value, "", "shown"))
        else:
            rows.append((what, value, f"at least {goal}", _verdict(at_eight["ratio"] >= goal)))
    return rows


def _overhead_rows(figures: dict[str, Any]) -> list[Row]:
    return [
        (
            f"{one['side']} px, {one['rows']} rows: share of a step outside of the networks",
            f"{one['share']:.1%} of {one['step_ms']:.1f} ms",
            f"below {OVERHEAD_GOAL:.0%}",
            _verdict(one["share"] < OVERHEAD_GOAL),
        )
        for one in figures["overhead"]
    ]


def _language_rows(figures: dict[str, Any]) -> list[Row]:
    return [
        *(_samplers_row(one) for one in figures["samplers"]),
        *(_everything_row(one) for one in figures["mixed"]),
        *(_adapters_row(one) for one in figures["adapters"]),
    ]


def _samplers_row(one: dict[str, Any]) -> Row:
    return (
        f"{one['side']} px, denoising 8 rows of 8 samplers and 4 lengths of prompts, over 8 `euler` rows",
        f"{one['both_ratio']:.3f} (samplers alone {one['samplers_ratio']:.3f}, lengths alone "
        f"{one['lengths_ratio']:.3f})",
        f"at most {LANGUAGE_GOAL}",
        _verdict(one["both_ratio"] <= LANGUAGE_GOAL),
    )


def _everything_row(one: dict[str, Any]) -> Row:
    return (
        f"{one['side']} px, everything mixed, windows of {WINDOW} (calls of {one['call_mean']:.1f} requests)",
        f"{one['ratio']:.2f} ({one['ratio_min']:.2f} to {one['ratio_max']:.2f})",
        f"at least {MIXED_GOAL}",
        _verdict(one["ratio"] >= MIXED_GOAL),
    )


def _adapters_row(one: dict[str, Any]) -> Row:
    ratios = ", ".join(f"{one[name]:.2f}" for name in ("one_ratio", "two_ratio", "sets_ratio"))
    return (
        f"{one['side']} px, denoising 8 rows with adapters over 8 without: one, two, four sets mixed",
        f"{ratios}; two over diffusers with the same two fused {one['two_over_fused']:.2f}",
        "",
        "shown",
    )


def _curve_table(figures: dict[str, Any]) -> list[str]:
    rows = [point["rows"] for point in figures["curves"][0]["points"]]
    return [
        "Against one pipeline call a request, by rows that may share a step; the cap is the smallest number of rows "
        "with 95% of the best throughput:",
        "",
        "| side | " + " | ".join(str(number) for number in rows) + " | cap |",
        "|---" * (len(rows) + 2) + "|",
        *(
            f"| {curve['side']} px | "
            + " | ".join(f"{point['ratio']:.2f}" for point in curve["points"])
            + f" | {curve['cap']} |"
            for curve in figures["curves"]
        ),
    ]


def _lanes_table(figures: dict[str, Any]) -> list[str]:
    """What the lanes take for a picture, so that a miss can be looked for in the right one."""
    return [
        "What our lanes take for one picture in batches of 8, ms by the clock in the last turn, and the pipeline's CPU "
        "ms for all of it:",
        "",
        "| | prepare | denoise | finish | the pipeline |",
        "|---|---|---|---|---|",
        *(
            f"| {one['side']} px, {'with' if one['posed'] else 'without'} a pose | {one['prepare_ms']:.1f} | "
            f"{one['denoise_ms']:.1f} | {one['finish_ms']:.1f} | "
            f"{one['pipeline_cpu_seconds'] * 1000 / one['requests']:.1f} |"
            for one in figures["equal"]
        ),
        "",
    ]


def _breakdown_table(figures: dict[str, Any]) -> list[str]:
    lines = []
    for one in figures["overhead"]:
        lines += [
            f"Where the denoise lane's own time goes at {one['side']} px, {one['rows']} rows: a step is "
            f"{one['step_ms']:.2f} ms, of which UNet and ControlNet {one['networks_ms']:.2f} and the lanes between "
            f"two steps {one['between_steps_ms']:.3f}. Under a profiler, which makes small calls dearer, networks "
            "left out:",
            "",
            "| function | ms a step | its own | calls a step |",
            "|---|---|---|---|",
            *(
                f"| `{part['function']}` | {part['ms']:.3f} | {part['own_ms']:.3f} | {part['calls']:.1f} |"
                for part in one["breakdown"]
            ),
            "",
        ]
    return lines


def plot(out: Path, figures: dict[str, Any]) -> None:
    """`engine.png`: how many times as fast as one pipeline call a request, by rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for curve in figures["curves"]:
        rows = [point["rows"] for point in curve["points"]]
        axes.plot(rows, [point["ratio"] for point in curve["points"]], marker="o", label=f"{curve['side']} px")
    axes.axhline(1, color="#a0aec0", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8, 16], labels=["1", "2", "4", "8", "16"])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows that may share a step")
    axes.set_ylabel("times one pipeline\ncall a request")
    axes.legend()
    figure.savefig(out / "engine.png", dpi=120)
    plt.close(figure)
