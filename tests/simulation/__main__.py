"""`python -m tests.simulation`: one seed with its history, or many seeds with a list of those that fail."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import sys
import time

from tests.simulation.running import Result, run_seed


def main() -> int:
    """Run what the command line asks for. 0 where every seed passes."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed, with the end of its history where it fails")
    parser.add_argument("--trace", action="store_true", help="print the history of --seed as it happens")
    parser.add_argument("--seeds", default="0..300", help="FROM..TO, TO not included; or a number of seeds")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    if asked.seed is not None:
        return _one(asked.seed, trace=asked.trace)
    first, _, last = asked.seeds.rpartition("..")
    return _many(range(int(first or 0), int(last)), asked.processes)


def _one(seed: int, *, trace: bool) -> int:
    result = run_seed(seed, trace=trace)
    if result.failure is not None and not trace:
        print("\n".join(result.history))
    print(f"seed {seed}: {result.failure or 'passed'}; {result.seconds:.2f} s, history {result.digest[:16]}")
    return int(result.failure is not None)


def _many(seeds: range, processes: int) -> int:
    began = time.monotonic()
    failed: list[Result] = []
    slowest = 0.0
    statuses: collections.Counter[str] = collections.Counter()
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        results = pool.map(run_seed, seeds, chunksize=10) if processes > 1 else map(run_seed, seeds)
        for number, result in enumerate(results, start=1):
            slowest = max(slowest, result.seconds)
            statuses.update(result.statuses)
            if result.failure is not None:
                failed.append(result)
                print(f"\nseed {result.seed}: {result.failure}\n    {result.replay}", flush=True)
            if sys.stdout.isatty() or number % 500 == 0 or number == len(seeds):
                rate = number / (time.monotonic() - began)
                print(
                    f"\r{number} of {len(seeds)} seeds, {len(failed)} failed, {rate:.1f} a second, "
                    f"the slowest took {slowest:.2f} s",
                    end="" if sys.stdout.isatty() else "\n",
                    flush=True,
                )
    print()
    print("outcomes published:", ", ".join(f"{name} {count}" for name, count in sorted(statuses.items())))
    if failed:
        print(f"{len(failed)} of {len(seeds)} seeds failed:", *(result.seed for result in failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
