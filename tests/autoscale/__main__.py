"""`python -m tests.autoscale`: a real Kafka and S3, a real control plane with KEDA, the chart, real workers, real lag.

Exit code 0 only when the fleet went 0 -> N -> 0, nothing was lost or repeated, and each case of KEDA's and the HPA's
known faults came out as the chart means it to. 2 where the control plane is not there: then nothing was proven.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from darkroom.consumer.stack import Stack, StackError
from darkroom.producer.logs import configure
from darkroom.schemas.settings import LogSettings
from tests.autoscale import binaries, findings
from tests.autoscale.api import ApiError
from tests.autoscale.binaries import Binaries, Missing
from tests.autoscale.case import Case, TooLong
from tests.autoscale.deployment import Deployment
from tests.autoscale.helm import HelmRefused
from tests.autoscale.kubelet import Kubelet
from tests.autoscale.plane import Plane, PlaneError
from tests.autoscale.proof import Proof
from tests.autoscale.report import in_words, table
from tests.autoscale.verdict import Figures, live_cases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.autoscale", description=__doc__)
    parser.add_argument("--only", choices=["proof", "findings"], help="a part of it")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--keep", type=Path, help="a new folder for all logs; else they are kept only when bad")
    arguments = parser.parse_args()
    if arguments.keep is not None and arguments.keep.exists():
        parser.error(f"{arguments.keep} is there already: name a folder that is to be made")
    configure(LogSettings(level="error"), worker="proof")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        found = binaries.find()
    except Missing as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="darkroom-autoscale-"))
    good = False
    try:
        figures, cases = _run(found, folder, arguments.only)
        good = not figures.problems and all(case.holds for case in cases)
        cases.sort(key=lambda case: case.number)
        if arguments.json:
            print(json.dumps({"good": good, "proof": asdict(figures), "findings": [asdict(case) for case in cases]}))
        else:
            print(table(figures if arguments.only != "findings" else None, cases, good=good))
    except* (PlaneError, ApiError, TooLong, HelmRefused, StackError) as several:
        print(in_words(several), file=sys.stderr)
    finally:
        if good and arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the logs are in {folder}", file=sys.stderr)
    sys.exit(0 if good else 1)


def _run(found: Binaries, folder: Path, only: str | None) -> tuple[Figures, list[Case]]:
    stack = Stack(folder / "stack")
    figures, cases = Figures(), []
    try:
        environment = stack.up(_say).environment
        with Plane(found, folder / "plane", _say) as plane:
            begun = time.monotonic()
            plane.start_api()
            plane.start_controllers()
            plane.start_keda()
            _say(f"the control plane is up after {time.monotonic() - begun:.1f} s")
            kubelet = Kubelet(plane.api, folder / "pods", plane.address, _say)
            kubelet.start()
            try:
                if only != "findings":
                    figures = _prove(Deployment(plane, found, environment, folder, "proof"), kubelet)
                    cases += live_cases(figures)
                if only != "proof":
                    still = Deployment(plane, found, environment, folder, "still")
                    cases += asyncio.run(findings.run(still, kubelet, _say))
            finally:
                kubelet.stop()
    finally:
        stack.down()
    return figures, cases


def _prove(deployment: Deployment, kubelet: Kubelet) -> Figures:
    deployment.make_namespace()
    deployment.install()
    _say("the chart is installed: topics, bucket and initial offsets are there")
    proof = Proof(deployment, kubelet, _say)
    asyncio.run(proof.run())
    deployment.helm.uninstall()
    return proof.figures


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
