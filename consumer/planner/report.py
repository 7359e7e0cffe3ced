"""Prints a plan: a table, Markdown, JSON, the chart's values, a plot. Each says what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from darkroom.consumer.planner.search import Answer, Question

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS: Final = (
    "instance",
    "GPU",
    "term",
    "$/h",
    "workers",
    "partitions",
    "lag threshold",
    "busy",
    "p50 s",
    "p95 s",
    "p99 s",
    "$ per 1,000 images",
    "economy $",
    "speed",
    "price",
)


def ordered(answers: Sequence[Answer]) -> list[Answer]:
    """The cheapest first, those without an answer last."""
    return sorted(answers, key=lambda one: one.usd_per_1000)


def document(question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
    """For machines."""
    return {
        "load": question.scenario.document(),
        "target": {"share": question.target.share, "seconds": question.target.seconds},
        "start_s": question.start_s,
        "simulated": "the real core and batcher on a virtual clock; step times by each answer's `speed`",
        "answers": [one.document() for one in ordered(answers)],
    }


def headline(question: Question) -> str:
    """The load and the target, as one sentence."""
    scenario = question.scenario
    mix = scenario.mix
    steps = "/".join(str(one) for one in sorted(mix.steps))
    sizes = ", ".join(f"{width}x{height}" for width, height in mix.sizes)
    return (
        f"{scenario.name}: {scenario.requests_expected:.0f} requests in {scenario.horizon_s / 3600:g} h of {sizes}, "
        f"{steps} steps, {mix.guided:.0%} guided, {mix.posed:.0%} with a pose; {question.target.name}; a worker takes "
        f"{question.start_s:g} s to start; seed {scenario.seed}."
    )


def _cells(answer: Answer) -> list[str]:
    machine, figures = answer.machine, answer.figures
    head = [machine.name, machine.gpu, machine.term.replace("_", " "), f"{machine.price.usd_per_hour:g}"]
    tail = [machine.speed_status, machine.price.status]
    economy = "" if answer.economy is None else "none"
    if answer.economy is not None and answer.economy.figures is not None:
        economy = f"{answer.economy.usd_per_1000:.2f}"
    tail = [economy, *tail]
    if figures is None:
        return [*head, "none", *[""] * 7, *tail]
    workers = str(answer.min_replicas)
    if answer.max_replicas != answer.min_replicas:
        workers += f" to {answer.max_replicas}"
    return [
        *head,
        workers,
        str(answer.partitions),
        str(answer.lag_threshold),
        f"{figures.busy_ratio:.0%}",
        f"{figures.p50_s:.1f}",
        f"{figures.p95_s:.1f} ± {figures.p95_s_error:.1f}",
        f"{figures.p99_s:.1f}",
        f"{answer.usd_per_1000:.2f}",
        *tail,
    ]


def notes(answers: Sequence[Answer]) -> list[str]:
    """Where the figures are from, once each, and why a machine has none."""
    lines: dict[str, None] = {}
    if any(one.economy is not None for one in answers):
        lines[
            "economy $: a thousand images with fidelity economy and the default sampler, on the cheapest fleet for "
            "them. Samplers that add no noise cost less."
        ] = None
    for one in answers:
        machine = one.machine
        lines[f"Speed of {machine.gpu} on {machine.name}, {machine.speed_status}: {machine.speed_source}."] = None
        price = machine.price
        lines[
            f"Price of {machine.name} {machine.term.replace('_', ' ')}, {price.status}: {price.source} ({price.as_of})."
        ] = None
        if machine.term == "spot":
            lines["Spot machines are taken away now and then: that is not simulated, and costs renderings."] = None
        if one.refusal is not None:
            lines[f"{machine.name}: {one.refusal}"] = None
        elif one.figures is not None and one.figures.windows > 1:
            error = one.figures.replica_hours_per_1000_error * machine.price.usd_per_hour
            lines[
                f"{machine.name}: simulated in {one.figures.windows} windows, {one.figures.requests} requests in all; "
                f"cost ± {error:.2f}."
            ] = None
    return list(lines)


def table(answers: Sequence[Answer]) -> Table:
    """For a terminal."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for place, name in enumerate(COLUMNS):
        shown.add_column(name, justify="left" if place < 3 or place > 12 else "right")
    for one in ordered(answers):
        shown.add_row(*_cells(one))
    return shown


def markdown(question: Question, answers: Sequence[Answer]) -> str:
    """A table for README, with its notes."""
    lines = [
        headline(question),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_cells(one)) + " |" for one in ordered(answers)),
        "",
        *(f"- {line}" for line in notes(answers)),
    ]
    return "\n".join(lines) + "\n"


def chart_values(answer: Answer) -> str:
    """The values of helm/darkroom that follow from an answer, as YAML. Raises `ValueError` where there is none."""
    settings, machine, figures = answer.autoscaling, answer.machine, answer.figures
    if settings is None or figures is None:
        raise ValueError(f"{machine.name} has no answer: {answer.refusal}")
    return f"""\
# Written by `darkroom plan --values` for {machine.name} ({machine.gpu}, {machine.term.replace("_", " ")}).
# Speed {machine.speed_status}: {machine.speed_source}.
# Price {machine.price.status}: {machine.price.source} ({machine.price.as_of}).
# Simulated: p50 {figures.p50_s:.1f} s, p95 {figures.p95_s:.1f} s, {figures.busy_ratio:.0%} busy, \
${answer.usd_per_1000:.2f} per 1,000 images.
settings:
  topics:
    requests_partitions: {answer.partitions}
    completions_partitions: {answer.partitions}
  batch:
    linger_ms: {answer.linger_ms}
  worker:
    usd_per_device_hour: {machine.price.usd_per_hour:g}
worker:
  # Where autoscaling.mode is none.
  replicas: {answer.peak_replicas}
  loadSeconds: {int(answer.start_s)}
autoscaling:
  mode: keda
  minReplicas: {answer.min_replicas}
  maxReplicas: {answer.max_replicas}
  keda:
    pollingIntervalSeconds: {int(settings.polling_s)}
    cooldownSeconds: {int(settings.cooldown_s)}
    kafka:
      lagThreshold: {answer.lag_threshold}
      activationLagThreshold: {settings.activation_lag}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: {int(settings.scale_up_window_s)}
      podsPerStep: {settings.scale_up_pods}
      stepSeconds: {int(settings.scale_up_period_s)}
    scaleDown:
      stabilizationWindowSeconds: {int(settings.scale_down_window_s)}
      podsPerStep: {settings.scale_down_pods}
      stepSeconds: {int(settings.scale_down_period_s)}
"""


def draw(answer: Answer, path: Path) -> None:
    """Replicas and lag over time. Raises `ValueError` where there is no answer, and `OSError`."""
    if answer.figures is None:
        raise ValueError(f"{answer.machine.name} has no answer: {answer.refusal}")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    history = answer.figures.history
    minutes = [one.at_s / 60 for one in history]
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained")
    above.step(minutes, [one.replicas for one in history], where="post", label="asked for")
    above.step(minutes, [one.serving for one in history], where="post", label="serving", linestyle="--")
    above.set_ylabel("workers")
    above.set_ylim(bottom=0)
    above.legend(loc="upper right")
    below.fill_between(minutes, [one.lag for one in history], step="post", alpha=0.5)
    below.set_ylabel("lag, records")
    below.set_xlabel("minutes")
    below.set_ylim(bottom=0)
    machine = answer.machine
    above.set_title(
        f"{machine.name} ({machine.gpu}): p95 {answer.figures.p95_s:.1f} s, ${answer.usd_per_1000:.2f} per 1,000 "
        f"images; speed {machine.speed_status}",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
