"""Processor time a record from the poll to the core's first decision, alone or beside another checkout's.

It begins with the bytes of a fetch, which the client library and what stands in its parser's place take apart, and ends
with the core's facts. A batch of one record is what a producer without lingering writes; in one of a hundred what a
batch costs is shared.

Each tree is measured in processes of its own, in turns, so that a machine that slows down slows both. The best of
several turns counts: noise only adds time.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

TURNS: Final = 5
"""Processes of each tree."""
REPEATS: Final = 5
"""Measurements within a process."""
RECORDS: Final = 400
"""Of each kind in one measurement: some 20 ms, many ticks of the processor's clock."""
BATCHES: Final = (1, 100)
"""Records of a batch."""
GOAL: Final = 1.0
HERE: Final = Path(__file__).resolve().parents[2]

_REQUEST: Final[dict[str, Any]] = {
    "request_id": "order-7781",
    "prompt": "a dancer on a stage, studio light",
    "steps": 22,
    "seed": 7,
}
_TYPE: Final = "darkroom.generation.requested.v1"
_EVENT: Final = {"specversion": "1.0", "id": "9d2c7b1e", "type": _TYPE, "source": "/shop"}
_TIMED: Final = {**_EVENT, "time": "2026-11-30T12:00:00.123Z"}
_BINARY: Final = (
    *((f"ce_{name}", text.encode()) for name, text in _TIMED.items()),
    ("content-type", b"application/json"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)
_STRUCTURED: Final = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
_PEOPLE: Final = [[[round(0.1 + at / 40, 4), round(0.2 + at / 50, 4)] for at in range(18)] for _ in range(3)]
_PICTURE: Final = base64.b64encode(b"\x89PNG" + bytes(range(256)) * 58).decode()
_FULL: Final = {
    **_REQUEST,
    "tenant": "studio",
    "negative_prompt": "blurry",
    "preset": "quality",
    "width": 1024,
    "height": 1024,
    "count": 2,
    "output": {"format": "webp", "quality": 85},
    "deadline": "2027-01-31T12:00:00Z",
    "labels": {"campaign": "spring"},
}
KINDS: Final[Mapping[str, tuple[dict[str, Any], tuple[tuple[str, bytes], ...]]]] = {
    "plain": (_REQUEST, ()),
    "binary CloudEvent": (_REQUEST, _BINARY),
    "structured CloudEvent": ({**_TIMED, "datacontenttype": "application/json", "data": _REQUEST}, _STRUCTURED),
    "most fields set": (_FULL, _BINARY),
    "keypoints of three people": ({**_REQUEST, "pose": {"people": _PEOPLE}}, _BINARY),
    "a skeleton of 20 KB": ({**_REQUEST, "pose": {"image": {"inline": _PICTURE}}}, _BINARY),
}
"""Records as producers write them: the value and the headers."""


def decoding(beside: Path | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Return microseconds a record by kind: this tree's, and `beside`'s where it names another checkout's folder."""
    trees = {"ours": HERE, **({"theirs": beside.resolve()} if beside else {})}
    best: dict[str, dict[str, float]] = {}
    for _ in range(1 if quick else TURNS):
        for tree, folder in trees.items():
            for kind, us in _in_process(folder).items():
                best.setdefault(kind, {})
                best[kind][tree] = min(us, best[kind].get(tree, us))
    ratio = None
    if beside:
        ratio = sum(one["ours"] for one in best.values()) / sum(one["theirs"] for one in best.values())
    return {"us": best, "ratio": ratio, "beside": _commit(beside) if beside else None, "goal": GOAL}


def section(figures: Mapping[str, Any]) -> list[str]:
    """Return its part of the report."""
    lines = [
        "## Decoding",
        "",
        "Processor time a record from the poll to the core's first decision, microseconds, the best of several "
        "processes.",
        "",
    ]
    if figures["ratio"] is None:
        rows = [f"| {kind} | {one['ours']:.0f} |" for kind, one in figures["us"].items()]
        return [*lines, "| record | us |", "|---|---|", *rows, ""]
    rows = [
        f"| {kind} | {one['ours']:.0f} | {one['theirs']:.0f} | {one['ours'] / one['theirs']:.2f} |"
        for kind, one in figures["us"].items()
    ]
    whole = f"| one of each | | | {figures['ratio']:.2f} (goal: at most {figures['goal']:.1f}) |"
    return [*lines, f"| record | us | at {figures['beside']} | ratio |", "|---|---|---|---|", *rows, whole, ""]


def _commit(folder: Path) -> str:
    said = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or folder.name


def _in_process(folder: Path) -> dict[str, float]:
    """Run this module's measurement on another tree's packages, which the interpreter finds first."""
    said = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--measure"],
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(said.stdout)
    if not Path(measured["schemas"]).is_relative_to(folder):
        raise RuntimeError(f"{measured['schemas']} was measured in place of {folder}")
    us: dict[str, float] = measured["us"]
    return us


def _measure() -> dict[str, Any]:
    """Return the figures of the packages that this process imports, whichever tree's they are."""
    import darkroom.schemas.names
    from darkroom.consumer.core.partition_key import PartitionKey
    from darkroom.consumer.worker.intake import Intake
    from darkroom.consumer.worker.ports import Record
    from darkroom.inference.simulated.device import SimulatedDevice
    from darkroom.schemas.settings import LimitSettings

    info = SimulatedDevice(0.0).info
    intake = Intake(lambda: info, LimitSettings(), request_bytes_max=1 << 20)
    partition, wall = PartitionKey("generation.requests", 0), datetime.now(UTC)
    us = {}
    for kind, (value, headers) in KINDS.items():
        for batch in BATCHES:
            fetched = _fetched(json.dumps(value).encode(), headers, int(wall.timestamp() * 1000), batch)
            best = float("inf")
            for _ in range(REPEATS):
                began = time.process_time()
                for one in _polled(fetched):
                    record = Record(one.offset, one.key, one.value, one.headers, one.timestamp)
                    facts, _ = intake.take(partition, record, now=1.0, wall=wall)
                    assert facts.refusal is None, f"{kind}: {facts.refusal}"
                best = min(best, time.process_time() - began)
            us[f"{kind}, {batch} a batch"] = best / RECORDS * 1e6
    return {"us": us, "schemas": darkroom.schemas.names.__file__}


def _fetched(value: bytes, headers: tuple[tuple[str, bytes], ...], time_ms: int, batch: int) -> bytes:
    """Return a fetch of `RECORDS` records in batches of `batch`, as a broker answers it."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    fetched = bytearray()
    for base in range(0, RECORDS, batch):
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=1 << 30,
        )
        for at in range(batch):
            builder.append(at, time_ms, b"order-7781", value, list(headers))
        built = builder.build()
        built[:8] = base.to_bytes(8, "big")
        fetched += built
    return bytes(fetched)


def _polled(fetched: bytes) -> list[Any]:
    """Return the records of a fetch as the consumer of this process's tree gives them."""
    from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
    from aiokafka.record.memory_records import MemoryRecords
    from aiokafka.structs import TopicPartition

    try:
        from darkroom.producer.kafka.record_batches import Batches, Doubted
    except ImportError:  # a tree that reads with the library's own parser
        records = MemoryRecords(fetched)
    else:
        records = Batches(Doubted(), fetched)
    partition = TopicPartition("generation.requests", 0)
    return list(PartitionRecords(partition, records, None, 0, None, None, True, READ_COMMITTED))


def main() -> None:
    """This comparison alone: `python -m tests.bench.decoding [--beside FOLDER]`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decoding", description=__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout's folder, to compare with")
    parser.add_argument("--quick", action="store_true", help="one process of each, to see that it runs")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure()))
    else:
        print("\n".join(section(decoding(arguments.beside, quick=arguments.quick))))


if __name__ == "__main__":
    main()
