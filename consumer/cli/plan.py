"""The command `darkroom plan`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darkroom.producer.terminal import fail, is_watched

if TYPE_CHECKING:
    from darkroom.consumer.planner.load import Rate
    from darkroom.consumer.planner.scenario import Scenario
    from darkroom.consumer.planner.search import Answer, Question

_PER_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86_400.0}
MACHINES_MAX = 32
"""Of one call: each takes seconds."""
GUIDE_RATE_PER_MIN = 20.0
"""The load of the deployment guide's table: one that its cheapest instances carry with a handful of workers."""


def _rate(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """`5/min` in requests a second."""
    if text is None:
        return None
    read = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)/(s|min|h|day)", text.strip())
    if read is None or float(read[1]) <= 0:
        raise click.BadParameter(
            f"{text[:40]!r} is no rate: write requests by time, as 5/min, 0.5/s, 300/h or 9000/day."
        )
    return float(read[1]) / _PER_S[read[2]]


def _pairs(_ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(f"{text[:60]!r} is no pair: write {param.opts[0]} INSTANCE=VALUE.")
        pairs[name] = value
    return pairs


@click.command(
    name="plan",
    epilog="Example: darkroom plan --rate 5/min --target-s p95 60 --gpu g4dn.xlarge --gpu g5.2xlarge --plot plan.png "
    "--values plan-values.yaml",
)
@click.option("--rate", callback=_rate, metavar="N/UNIT", help="Requests by s, min, h or day, as 5/min: Poisson.")
@click.option(
    "--burst",
    nargs=3,
    type=click.FloatRange(min=0, min_open=True),
    metavar="FACTOR SECONDS EVERY",
    help="With --rate: FACTOR times the rate for SECONDS in every EVERY seconds, and less in between.",
)
@click.option("--daily", is_flag=True, help="With --rate as a day's mean: quiet nights, busy afternoons.")
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Recorded times instead: JSON lines or CSV."
)
@click.option("--hours", type=click.FloatRange(min=0.05, max=24 * 31), help="Planned time; 1, with --daily 24.")
@click.option(
    "--mix", type=click.Path(path_type=Path), metavar="FILE", help="Steps, sizes, guidance, poses: TOML, JSON."
)
@click.option(
    "--target-s",
    nargs=2,
    type=(click.Choice(["p50", "p95", "p99"]), click.FloatRange(min=0, min_open=True)),
    default=("p95", 60.0),
    show_default=True,
    metavar="SHARE SECONDS",
    help="Latency from the request in Kafka to its completion.",
)
@click.option(
    "--gpu", "gpus", multiple=True, metavar="INSTANCE", help="Of the price list; the deployment guide's three."
)
@click.option("--all-gpus", is_flag=True, help="Every instance of the price list.")
@click.option(
    "--term",
    "terms",
    multiple=True,
    type=click.Choice(["on_demand", "reserved", "spot"]),
    help="How machines are paid for; on_demand.",
)
@click.option(
    "--profile",
    "profiles",
    callback=_pairs,
    multiple=True,
    metavar="INSTANCE=FILE",
    help="A measured profile or curve, as darkroom calibrate --out writes them, in place of published figures.",
)
@click.option("--prices", type=click.Path(path_type=Path), metavar="FILE", help="A price list in place of ours: TOML.")
@click.option("--price", "price", callback=_pairs, multiple=True, metavar="INSTANCE=USD", help="An hour's price.")
@click.option("--max-rows", type=click.IntRange(1, 256), default=8, show_default=True, help="Images that share a step.")
@click.option(
    "--start-s",
    type=click.FloatRange(min=0, max=86_400),
    default=90.0,
    show_default=True,
    help="From a pod that is asked for to a worker that serves: image, model, warm-up.",
)
@click.option("--drain-s", type=click.FloatRange(min=1, max=3_600), default=120.0, show_default=True)
@click.option("--scale-to-zero", is_flag=True, help="Allow a fleet of none while nothing is asked for.")
@click.option("--polling-s", type=click.FloatRange(min=1), default=15.0, show_default=True, help="KEDA's interval.")
@click.option("--cooldown-s", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Before zero.")
@click.option("--window-s", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Before scaling in.")
@click.option("--partitions", type=click.IntRange(1, 4096), help="As they are; else as the fleet needs them.")
@click.option("--max-replicas", type=click.IntRange(1, 1_000), default=256, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--guide", is_flag=True, help="The deployment guide's instances, on demand and spot, at 20 requests a minute."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--markdown", "as_markdown", is_flag=True, help="A table for a README.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="PNG", help="The cheapest over time.")
@click.option("--values", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Its chart values.")
def plan(**flags: Any) -> None:
    """Print how many workers a load needs on which GPU, and the price of a thousand images.

    Simulates the worker's own core and batcher on a virtual clock, workers and autoscaler together: step times by a
    measured profile, or by published figures where there is none (the output says which). The cheapest fleet that
    keeps the target is the answer, with partitions, lag threshold and linger for the chart.
    """
    from darkroom.consumer.planner import report
    from darkroom.consumer.planner.autoscaler import AutoscalingError
    from darkroom.consumer.planner.gpus import GpuError
    from darkroom.consumer.planner.load import LoadError

    if flags["guide"]:
        flags = flags | {
            "rate": flags["rate"] or GUIDE_RATE_PER_MIN / 60,
            "terms": flags["terms"] or ("on_demand", "spot"),
        }
    if (flags["rate"] is None) == (flags["trace"] is None):
        raise click.UsageError("Say how requests arrive: --rate N/UNIT, as 5/min, or --trace FILE.")
    if flags["rate"] is None and (flags["burst"] or flags["daily"]):
        raise click.UsageError("--burst and --daily shape a --rate: a trace has its own shape.")
    if flags["burst"] and flags["daily"]:
        raise click.UsageError("Give --burst or --daily, not both.")
    try:
        question = _question(flags)
        with _shown() as tell:
            answers = _answers(question, flags, tell)
        best = report.ordered(answers)[0]
        if flags["plot"] is not None:
            report.draw(best, flags["plot"])
        if flags["values"] is not None:
            flags["values"].write_text(report.chart_values(best))
    except (LoadError, GpuError, AutoscalingError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename} cannot be written ({error.strerror}): name a file in a folder that is there.")
    if flags["as_json"]:
        click.echo(json.dumps(report.document(question, answers)))
    elif flags["as_markdown"]:
        click.echo(report.markdown(question, answers), nl=False)
    else:
        _print(question, answers)
    if all(one.refusal is not None for one in answers):
        raise SystemExit(1)


def _question(flags: dict[str, Any]) -> Question:
    from darkroom.consumer.core.limits import Limits
    from darkroom.consumer.planner.autoscaler import Autoscaling
    from darkroom.consumer.planner.search import Question, Target

    name, seconds = flags["target_s"]
    rows = flags["max_rows"]
    return Question(
        scenario=_scenario(flags),
        target=Target({"p50": 0.5, "p95": 0.95, "p99": 0.99}[name], seconds),
        limits=Limits(
            batch_rows_max=rows,
            ahead_rows_max=max(1, rows // 2),
            begin_ahead_rows_max=max(64, rows),
            prepare_ahead_rows_max=max(8, rows),
            drain_s=flags["drain_s"],
        ),
        start_s=flags["start_s"],
        scale_to_zero=flags["scale_to_zero"],
        autoscaling=Autoscaling(
            min_replicas=0,
            max_replicas=1,
            lag_threshold=1,
            polling_s=flags["polling_s"],
            cooldown_s=flags["cooldown_s"],
            scale_down_window_s=flags["window_s"],
        ),
        partitions=flags["partitions"],
        replicas_max=flags["max_replicas"],
    )


def _scenario(flags: dict[str, Any]) -> Scenario:
    from darkroom.consumer.planner.load import DEFAULT_MIX
    from darkroom.consumer.planner.load_files import read_mix, read_trace
    from darkroom.consumer.planner.scenario import Scenario

    mix = DEFAULT_MIX if flags["mix"] is None else read_mix(flags["mix"])
    if flags["trace"] is not None:
        times = read_trace(flags["trace"])
        horizon_s = 3600 * flags["hours"] if flags["hours"] else times[-1] + 1.0
        return Scenario(f"trace {flags['trace'].name}", None, times, horizon_s, mix, flags["seed"])
    name, rate = _shape(flags)
    hours = flags["hours"] or (24.0 if flags["daily"] else 1.0)
    return Scenario(name, rate, None, 3600 * hours, mix, flags["seed"])


def _shape(flags: dict[str, Any]) -> tuple[str, Rate]:
    from darkroom.consumer.planner.load import bursts, daily, steady

    rate = flags["rate"]
    said = f"{60 * rate:g}/min"
    if flags["burst"]:
        factor, length_s, every_s = flags["burst"]
        return f"{said} in bursts of {factor:g} for {length_s:g} s every {every_s:g} s", bursts(
            rate, factor, length_s, every_s
        )
    if flags["daily"]:
        return f"{said} over a working day", daily(rate)
    return f"{said}, Poisson", steady(rate)


def _answers(question: Question, flags: dict[str, Any], tell: Any) -> list[Answer]:
    from darkroom.consumer.planner.gpus import Catalogue, GpuError
    from darkroom.consumer.planner.search import answer, at_price

    catalogue = Catalogue(flags["prices"])
    for name, text in flags["price"].items():
        try:
            catalogue.override(name, float(text))
        except ValueError as error:
            raise GpuError(f"{text[:40]!r} is no price of {name}: write US dollars an hour, as 0.526.") from error
    named = list(flags["gpus"]) + [name for name in flags["profiles"] if name not in flags["gpus"]]
    names = list(catalogue.names if flags["all_gpus"] else named or catalogue.guide)
    terms = flags["terms"] or ("on_demand",)
    if not names:
        raise GpuError("The price list marks no instance with `guide = true`: name some with --gpu.")
    if len(names) * len(terms) > MACHINES_MAX:
        raise GpuError(f"{len(names) * len(terms)} answers are asked for: at most {MACHINES_MAX} in one call.")
    answers = []
    for name in names:
        profile = flags["profiles"].get(name)
        machines = [catalogue.machine(name, term, None if profile is None else Path(profile)) for term in terms]
        first = answer(question, machines[0], tell)
        # The price changes no fleet of one machine: the cheapest that keeps the target is the smallest.
        answers += [first, *(at_price(first, one) for one in machines[1:])]
    return answers


class _shown:  # noqa: N801 - reads as a word of the `with` statement
    """One line on a terminal that says what is being tried; nothing where nobody watches."""

    def __enter__(self) -> Any:
        if not is_watched():
            return lambda _: None
        from rich.console import Console

        self._status = Console(stderr=True).status("simulating")
        self._status.start()
        return self._status.update

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_status"):
            self._status.stop()


def _print(question: Question, answers: list[Answer]) -> None:
    from rich.console import Console

    from darkroom.consumer.planner import report

    click.echo(report.headline(question) + "\n")
    # Piped output is as wide as its longest line: nothing is cut.
    console = Console(width=None if is_watched() else 200)
    console.print(report.table(answers))
    best = report.ordered(answers)[0]
    click.echo("")
    if best.figures is not None:
        click.echo(
            f"Cheapest: {best.min_replicas} to {best.max_replicas} workers on {best.machine.name}, {best.partitions} "
            f"partitions, a lag threshold of {best.lag_threshold} records, linger {best.linger_ms} ms: "
            f"${best.usd_per_1000:.2f} per 1,000 images."
        )
    for line in report.notes(answers):
        click.echo(line)
