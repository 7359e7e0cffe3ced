"""Measures the parity contract on a device and prints the table that docs/explain/pictures.md holds.

python -m tests.bench.parity [--device cuda:0] [--dtypes float32 float16 bfloat16]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch

from darkroom.inference.tiny import ensure_tiny_model
from tests.inference.painting import Oracle, load
from tests.inference.parity import TOLERANCES, distances, promised


def table(device: str, dtypes: Sequence[str]) -> Iterator[str]:
    """Lines of Markdown: a row for each dtype and comparison, with what was measured and what is promised."""
    model = ensure_tiny_model()
    kind = torch.device(device).type
    yield "| device | dtype | what | largest | mean | promised | |"
    yield "|---|---|---|---|---|---|---|"
    for dtype in dtypes:
        ours = load(model, device=device, dtype=dtype)
        oracle = Oracle(model.path, model.controlnet_path, getattr(torch, dtype), device=device)
        for what, distance in distances(ours, oracle):
            limit = promised(dtype, what, device_kind=kind)
            verdict = "kept" if distance.within(limit) else "NOT KEPT"
            measured = f"{distance.largest} | {distance.mean:.3f}"
            yield f"| {kind} | {dtype} | {what} | {measured} | {limit.largest}; {limit.mean:g} | {verdict} |"
        ours.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.parity", description=__doc__)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtypes", nargs="+", choices=list(TOLERANCES), default=list(TOLERANCES))
    asked = parser.parse_args()
    is_kept = True
    print("Of 255, over all channels of all pixels of the tiny model's pictures:\n")
    for line in table(asked.device, asked.dtypes):
        is_kept = is_kept and "NOT KEPT" not in line
        print(line, flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
