"""The figures as JSON, as a page of Markdown, and as plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench import decoding, engine_page, gateway, planner, poisson


def write(out: Path, figures: dict[str, Any]) -> None:
    """`figures.json`, `report.md` and the plots, into a folder that is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    _plot(out, figures)
    engine_page.plot(out, figures["engine"])
    poisson.plot(out, figures["poisson"])
    (out / "report.md").write_text(_page(figures))


def _page(figures: dict[str, Any]) -> str:
    memory, stored, no_store = figures["memory"], figures["stored"], figures["no_store"]
    against, bare, puts = figures["against_memory"], figures["bare_transactions"], figures["bare_puts"]
    start_up, joining = figures["start_up"], figures["joining"]
    ms0 = f"{figures['guarantee_0ms']['ratio']:.2f}"
    rows = [
        (
            f"{against['requests']:.0f} requests of mixed steps, 20 ms a step, 8 rows: worker over engine from memory",
            f"{against['ratio']:.3f}",
            "at least 0.95",
        ),
        ("the device's busy share in that run", f"{against['device_busy_ratio']:.3f}", ""),
        (
            "20 ms steps: with the guarantee over plain at-least-once commits",
            f"{figures['guarantee']['ratio']:.3f}",
            "at least 0.98",
        ),
        ("0 ms steps: the same, with nothing to hide transactions behind", ms0, ""),
        (
            "a third worker joins: the two others' longest idle gap, in steps (with an empty device; before)",
            ", ".join(f"{joining[name] / joining['step_ms']:.2f}" for name in ("during_ms", "empty_ms", "before_ms")),
            "at most 1",
        ),
        ("0 ms steps, pictures stored, requests/s", f"{stored['per_second']:.0f}", "at least 100"),
        ("the same over the bare store calls of a request", _ratio(stored, puts, "requests_per_second"), ""),
        ("0 ms steps, no store, requests/s", f"{no_store['per_second']:.0f}", "at least 500"),
        ("the same over a bare loop with such transactions", _ratio(no_store, bare, "per_second"), ""),
        ("resident memory after 5 portions over after 1", f"{memory['ratio']:.3f}", "flat"),
        ("`darkroom --help`, seconds", f"{start_up['help_seconds']:.2f}", "below 0.5"),
    ]
    details = [
        ("CPU of the worker's process, ms a request, stored", f"{stored['cpu_ms_per_request']:.2f}"),
        ("CPU of the worker's process, ms a request, no store", f"{no_store['cpu_ms_per_request']:.2f}"),
        ("transactions for those requests (stored; no store)", f"{stored['transactions']}; {no_store['transactions']}"),
        ("bare loop, requests/s", f"{bare['per_second']:.0f} in {bare['transactions']} transactions"),
        ("bare puts/s from 16 threads", f"{puts['puts_per_second']:.0f}"),
        ("look up + picture + outcome, requests/s from 16 threads", f"{puts['requests_per_second']:.0f}"),
        ("resident MiB", ", ".join(f"{one:.0f}" for one in memory["mib"])),
        ("`send --help`; `audit --help`; bare Python, seconds", _times(start_up)),
    ]
    lines = [
        "# Bench",
        "",
        f"Run at {figures['at']}, seed {figures['seed']}, on one machine with Kafka and S3 beside the worker. The "
        "device is simulated: a step sleeps. Only ratios carry over to other machines.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {value} | {goal} |" for what, value, goal in rows),
        "",
        "| detail | value |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in details),
        "",
        "![Requests a second](throughput.png) ![Resident memory](memory.png)",
        "",
        *gateway.section(figures["gateway"]),
        *decoding.section(figures["decoding"]),
        *engine_page.section(figures["engine"]),
        *poisson.section(figures["poisson"]),
        *planner.section(figures["planner"]),
    ]
    return "\n".join(lines)


def _ratio(ours: dict[str, float], theirs: dict[str, float], name: str) -> str:
    return f"{ours['per_second'] / theirs[name]:.2f}"


def _times(start_up: dict[str, float]) -> str:
    names = ("send_help_seconds", "audit_help_seconds", "bare_python_seconds")
    return "; ".join(f"{start_up[name]:.2f}" for name in names)


def _plot(out: Path, figures: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    names = ["worker,\nno store", "bare\ntransactions", "worker,\nstored", "bare\nstore calls"]
    values = [
        figures["no_store"]["per_second"],
        figures["bare_transactions"]["per_second"],
        figures["stored"]["per_second"],
        figures["bare_puts"]["requests_per_second"],
    ]
    axes.bar(names, values, color=["#2b6cb0", "#a0aec0", "#2b6cb0", "#a0aec0"])
    axes.set_ylabel("requests a second")
    figure.savefig(out / "throughput.png", dpi=120)
    plt.close(figure)

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    memory = figures["memory"]
    served = [memory["portion"] * (number + 1) for number in range(len(memory["mib"]))]
    axes.plot(served, memory["mib"], marker="o", color="#2b6cb0")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests served")
    axes.set_ylabel("resident MiB")
    figure.savefig(out / "memory.png", dpi=120)
    plt.close(figure)
