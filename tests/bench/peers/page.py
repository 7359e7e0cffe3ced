"""The figures as a page of Markdown and its plots."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench.peers.contenders import KINDS, WIDE_BATCH
from tests.bench.peers.goals import goals
from tests.bench.peers.loads import curve

LABELS = {kind.name: kind.label for kind in (*KINDS, WIDE_BATCH)}
COLORS = {
    "fastapi": "#dd8a3c",
    "plain": "#cbd5e0",
    "batch": "#a0aec0",
    "batch-256": "#718096",
    "ray": "#6b9080",
    "darkroom": "#2b6cb0",
}
LEGEND = """Everybody is a process of its own with the same Kafka, store, client and reader. On the simulated device a
step sleeps for what a profile says of its UNet and ControlNet slots, the same object under Darkroom's
engine and under the pipeline that the peers call; text encoding, decoding and the GPU's memory are not
simulated. Requests have 20, 25, 30 or 40 steps, guidance 1, 5 or 7.5, and a third have no pose."""


def read(out: Path, *, seed: int) -> dict[str, Any]:
    """The figures of earlier pages with this seed in the folder, or none."""
    with contextlib.suppress(FileNotFoundError):
        figures: dict[str, Any] = json.loads((out / "figures.json").read_text())
        if figures["seed"] == seed:
            return figures
    return {"seed": seed, "runs": {}}


def write(out: Path, figures: dict[str, Any]) -> None:
    """`figures.json`, `report.md` and the plots of the pages that were run."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    lines = [
        "# Darkroom beside its peers",
        "",
        f"Seed {figures['seed']}. {' '.join(LEGEND.split())}",
        "",
        "| page | begun at | cores | minutes | load average before, after | |",
        "|---|---|---|---|---|---|",
        *(_run(name, run) for name, run in figures["runs"].items()),
        "",
        "## Goals",
        "",
        "| what | measured | goal | |",
        "|---|---|---|---|",
        *(f"| {one.what} | {one.measured:.3g} | {one.asked} | {one.verdict} |" for one in goals(figures)),
        "",
    ]
    for name, section in _SECTIONS.items():
        if figures.get(name):
            lines += section(out, figures[name])
    (out / "report.md").write_text("\n".join(lines))


def _run(name: str, run: dict[str, Any]) -> str:
    loads = f"{run['load_before']:.1f}, {run['load_after']:.1f}"
    ended = "" if run["finished"] else "not finished: what was measured until then"
    return f"| {name} | {run['at']} | {run['cores']} | {run['minutes']} | {loads} | {ended} |"


# --- Sections -------------------------------------------------------------------------------------------------------


def _peers(out: Path, figures: dict[str, Any]) -> list[str]:
    lines = [
        "## Backlog",
        "",
        "All requests at once; from the first one's sending to the last answer's reading. Fill: rows that share a call "
        "or a step, the mean over them. Busy: the device's share of the time. CPU and resident memory are those of the "
        "process and all that it started.",
        "",
        "![Images a second](backlog.png)",
        "",
    ]
    backlogs, arrivals = figures.get("backlog", {}), figures.get("poisson", {})
    for name, loads in backlogs.items():
        gain = curve(name).rows_per_second(8, 8, 8) / curve(name).rows_per_second(8, 8, 1)
        about = dict(curve(name).key.measured_on)
        lines += [f"**{name}** (8 rows: {gain:.2f} times the throughput): {about['source']}.", ""]
        for load, contenders in loads.items():
            lines += _table(load, contenders)
    if backlogs:
        _plot_backlog(out, backlogs)
    else:
        lines = []
    if not arrivals:
        return lines
    lines += [
        "## Poisson arrivals, tiny curve",
        "",
        "Load is a share of what the plain worker can carry. Queueing delay is an answer's time since its request was "
        "due, less what the device takes for that request alone. Everybody runs at once, on the same arrivals.",
        "",
        "![Queueing delay](delay.png)",
        "",
        "| load | | requests | p50 s | p95 s | p99 s | busy | fill | joins |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for load, found in arrivals.items():
        for kind, one in _in_order(found["contenders"]):
            delays = " | ".join(f"{one['delay_s'][name]:.3f}" for name in ("p50", "p95", "p99"))
            lines.append(
                f"| {load} | {LABELS[kind]} | {one['requests']} | {delays} | {one['busy_ratio']:.2f} "
                f"| {one['fill']:.2f} | {_joins(kind, one)} |"
            )
    _plot_delay(out, arrivals)
    return [*lines, ""]


def _table(load: str, contenders: dict[str, Any]) -> list[str]:
    return [
        f"| {load} | images/s | busy | fill | joins | CPU ms a request | memory MiB (processes) |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {LABELS[kind]} | {one['per_second']:.2f} | {one['busy_ratio']:.2f} | {one['fill']:.2f} "
            f"| {_joins(kind, one)} | {one['cpu_ms_per_request']:.1f} | {one['memory_mib']:.0f} ({one['processes']}) |"
            for kind, one in _in_order(contenders)
        ),
        "",
    ]


def _tiny(_: Path, figures: dict[str, Any]) -> list[str]:
    return ["## The built-in model", "", "A backlog, one torch thread each.", "", *_table("mixed", figures)]


def _kill(_: Path, figures: dict[str, Any]) -> list[str]:
    at = " and ".join(f"{share:.0%}" for share in figures["killed_at"])
    lines = [
        "## Killed in the middle",
        "",
        f"SIGKILL to the process and all that it started when {at} of a backlog were answered, and started again. "
        "Counted by request id; Darkroom's by `darkroom audit` too. Nobody asks the endpoint again.",
        "",
        "| | requests | lost | repeated | audit: missing, duplicated |",
        "|---|---|---|---|---|",
    ]
    for kind, one in _in_order(figures.get("contenders", {})):
        audit = "" if "audit" not in one else f"{one['audit']['missing']}, {one['audit']['duplicated']}"
        lines.append(f"| {LABELS[kind]} | {one['requests']} | {one['lost']} | {one['repeated']} | {audit} |")
    return [*lines, ""]


def _scale(out: Path, figures: dict[str, Any]) -> list[str]:
    lines = [
        "## Scale",
        "",
        "Workers: 20 ms a step, 8 rows; images/s between 10% and 70% of the answers, before partitions run empty. "
        "Backlog and partitions: steps of 0 ms, so that all that is left is what Darkroom itself takes.",
        "",
        "![Scale](scale.png)",
        "",
        "| | requests | images/s | of the whole run | CPU ms a request |",
        "|---|---|---|---|---|",
    ]
    for name, points in figures.items():
        lines += [
            f"| {one[name]:,} {'requests of backlog' if name == 'backlog' else name} | {one['requests']:,} "
            f"| {one['steady_per_second']:.1f} | {one['per_second']:.1f} | {one['cpu_ms_per_request']:.2f} |"
            for one in points
        ]
    _plot_scale(out, figures)
    return [*lines, ""]


def _cold(out: Path, figures: dict[str, Any]) -> list[str]:
    runs = {
        "Darkroom": figures["darkroom"],
        "Darkroom's very first start": figures["darkroom_first_start"],
        "bare diffusers script": figures["bare"],
    }
    lines = [
        "## Cold start to first picture",
        "",
        f"The built-in model; the fastest of {figures['runs']} runs, in turn. By the medians the ratio is "
        f"{figures['ratio_of_medians']:.2f}.",
        "",
        "![Cold start](cold.png)",
        "",
    ]
    for label, parts in runs.items():
        shown = "; ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
        lines += [f"- {label}, seconds: {shown}"]
    _plot_cold(out, runs)
    return [*lines, ""]


_SECTIONS = {"peers": _peers, "tiny": _tiny, "kill": _kill, "scale": _scale, "cold": _cold}


def _in_order(contenders: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((kind, contenders[kind]) for kind in COLORS if kind in contenders)


def _joins(kind: str, one: dict[str, Any]) -> str:
    return str(one["joins"]) if kind == "darkroom" else "none"


# --- Plots ------------------------------------------------------------------------------------------------------------


def _subplots(columns: int, width: float) -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, 3.4), layout="constrained", squeeze=False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=100)
    plt.close(figure)


def _plot_backlog(out: Path, backlog: dict[str, Any]) -> None:
    figure, axes = _subplots(2, 10)
    for axis, load in zip(axes, ("mixed", "uniform"), strict=True):
        for place, kind in enumerate(COLORS):
            heights = [loads.get(load, {}).get(kind, {}).get("per_second", 0.0) for loads in backlog.values()]
            at = [position + (place - 2.5) * 0.14 for position in range(len(backlog))]
            axis.bar(at, heights, width=0.13, color=COLORS[kind], label=LABELS[kind])
        axis.set_xticks(range(len(backlog)), list(backlog))
        axis.set_title(f"{load} backlog")
        axis.set_ylabel("images a second")
    axes[0].legend(fontsize="small")
    _save(figure, out / "backlog.png")


def _plot_delay(out: Path, loads: dict[str, Any]) -> None:
    figure, (axis,) = _subplots(1, 7)
    for kind, color in COLORS.items():
        delays = [one["contenders"].get(kind, {}).get("delay_s", {}).get("p95") for one in loads.values()]
        if None not in delays:
            axis.plot(list(loads), delays, marker="o", color=color, label=LABELS[kind])
    axis.set_yscale("log")
    axis.set_xlabel("load, of the plain worker's capacity")
    axis.set_ylabel("p95 of queueing delay, s")
    axis.legend(fontsize="small")
    _save(figure, out / "delay.png")


def _plot_scale(out: Path, figures: dict[str, Any]) -> None:
    figure, axes = _subplots(3, 12)
    workers = figures.get("workers", [])
    counts = [point["workers"] for point in workers]
    gains = [point["steady_per_second"] / workers[0]["steady_per_second"] for point in workers]
    axes[0].plot(counts, gains, marker="o", color=COLORS["darkroom"])
    axes[0].plot(counts, counts, linestyle=":", color="#a0aec0")
    axes[0].set_xlabel("workers")
    axes[0].set_ylabel("images/s, one worker = 1")
    for axis, name in zip(axes[1:], ("backlog", "partitions"), strict=True):
        points = figures.get(name, [])
        costs = [point["cpu_ms_per_request"] for point in points]
        axis.plot([point[name] for point in points], costs, marker="o", color=COLORS["darkroom"])
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("requests of backlog" if name == "backlog" else name)
        axis.set_ylabel("CPU ms a request")
    _save(figure, out / "scale.png")


def _plot_cold(out: Path, runs: dict[str, dict[str, float]]) -> None:
    figure, (axis,) = _subplots(1, 8)
    colors = ["#2b6cb0", "#6b9080", "#dd8a3c", "#a0aec0", "#718096"]
    for label, parts in runs.items():
        left = 0.0
        for (name, seconds), color in zip(parts.items(), colors, strict=False):
            if name == "total":
                continue
            axis.barh(label, seconds, left=left, color=color)
            if seconds > 0.08 * parts["total"]:
                axis.text(left + seconds / 2, label, name, ha="center", va="center", fontsize="x-small")
            left += seconds
    axis.set_xlabel("seconds")
    _save(figure, out / "cold.png")
