"""Proves `darkroom plan` from the command line: its table, its JSON, its files, its sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from darkroom.consumer.cli.plan import plan


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plan, arguments)


QUICK = ("--rate", "5/min", "--hours", "0.5", "--target-s", "p95", "60")


def test_the_example_s_answer_has_everything_in_it(tmp_path: Path) -> None:
    plot, values = tmp_path / "plan.png", tmp_path / "values.yaml"
    done = run(*QUICK, "--gpu", "g5.2xlarge", "--json", "--plot", str(plot), "--values", str(values))
    assert done.exit_code == 0, done.output
    read = json.loads(done.output)
    [answer] = read["answers"]
    assert answer["instance"] == "g5.2xlarge"
    assert answer["speed"]["status"] == "published"
    assert answer["price"]["source"]
    assert answer["figures"]["p95_s"] <= 60
    assert answer["min_replicas"] <= answer["max_replicas"] <= answer["partitions"]
    assert answer["usd_per_1000_images"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    chart = yaml.safe_load(values.read_text())
    assert chart["autoscaling"]["maxReplicas"] == answer["max_replicas"]
    assert chart["autoscaling"]["keda"]["kafka"]["lagThreshold"] == answer["lag_threshold"]
    assert chart["settings"]["topics"]["requests_partitions"] == answer["partitions"]
    assert chart["worker"]["loadSeconds"] <= chart["autoscaling"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert chart["worker"]["loadSeconds"] <= chart["autoscaling"]["keda"]["cooldownSeconds"]


def test_the_table_says_which_figures_are_measured_and_which_published(tmp_path: Path) -> None:
    curve = tmp_path / "curve.json"
    curve.write_text('{"1": 40, "2": 44, "4": 60}')
    done = run(*QUICK, "--gpu", "g4dn.xlarge", "--profile", f"g5.2xlarge={curve}", "--term", "spot")
    assert done.exit_code == 0, done.output
    assert "Speed of A10G on g5.2xlarge, measured: the curve curve.json." in done.output
    assert "Speed of T4 on g4dn.xlarge, scaled:" in done.output
    assert "Price of g4dn.xlarge spot, published:" in done.output
    assert "Spot machines are taken away" in done.output


def test_the_guide_s_table_has_its_instances_on_demand_and_spot() -> None:
    done = run("--guide", "--rate", "3/min", "--hours", "0.2", "--target-s", "p95", "120", "--markdown")
    assert done.exit_code == 0, done.output
    rows = [line for line in done.output.splitlines() if line.startswith("| ")][1:]
    assert {tuple(cell.strip() for cell in row.split("|")[1:4]) for row in rows} == {
        (name, gpu, term)
        for name, gpu in (("g4dn.xlarge", "T4"), ("g5.2xlarge", "A10G"), ("p3.2xlarge", "V100"))
        for term in ("on demand", "spot")
    }


def test_a_trace_is_planned_for(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"at_s": 20 * number}) + "\n" for number in range(40)))
    done = run("--trace", str(trace), "--gpu", "g5.2xlarge", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["load"]["requests"] == 40


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--rate"),
        (("--rate", "5"), 2, "5/min"),
        (("--rate", "5/min", "--trace", "x"), 2, "--trace"),
        (("--rate", "5/min", "--burst", "2", "60", "600", "--daily"), 2, "not both"),
        (("--rate", "5/min", "--price", "g5"), 2, "INSTANCE=VALUE"),
        (("--rate", "5/min", "--gpu", "abacus"), 1, "no instance 'abacus'"),
        (("--rate", "5/min", "--price", "abacus=cheap"), 1, "US dollars"),
        (("--trace", "/nowhere/trace.csv"), 1, "cannot be read"),
        (("--rate", "5/min", "--target-s", "p95", "1", "--gpu", "g4dn.xlarge", "--plot", "x.png"), 1, "by any number"),
        (
            ("--rate", "5/min", "--hours", "0.1", "--gpu", "g5.2xlarge", "--values", "/nowhere/v"),
            1,
            "cannot be written",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert said in done.output
    assert "Traceback" not in done.output


def test_the_published_table_is_the_command_s_own() -> None:
    """README shows it: after a change, write it again with `darkroom plan --guide --markdown`."""
    published = Path(__file__).resolve().parents[2] / "bench" / "results" / "plan.md"
    done = run("--guide", "--markdown")
    assert done.exit_code == 0, done.output
    assert done.output == published.read_text()
