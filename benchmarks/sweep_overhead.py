"""How much of a sweep's wall time is not spent computing with a model.

Runs the default sweep (or --n items per explainer) with cached checkpoints in a scratch directory and
takes the union of the intervals in which some process ran a cell or loaded weights. The rest is
planning, start-up of processes, storage, comparison and report. The floor is 0; the aim is under 10 %.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quantxai.store import Store


def union(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, seconds."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure(arguments: list[str]) -> dict[str, float]:
    """Run one sweep in a scratch directory and take its time apart."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "quantxai", "sweep", *arguments, "--out", str(out)]
        start = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.time() - start
        store = Store.open(out)
        cells, loads = [], []
        for key in store.manifest.cells:
            meta = store.meta(key)
            cells.append((meta["started"], meta["started"] + meta["seconds"]))
        for receipt in store.receipts().values():
            loads.append((receipt["load_started"], receipt["load_started"] + receipt["load_seconds"]))
    computing = union(cells)
    return {
        "wall_seconds": round(wall, 1),
        "computing_seconds": round(computing, 1),
        "loading_seconds": round(union(cells + loads) - computing, 1),
        "other_seconds": round(wall - union(cells + loads), 1),
        "overhead_share": round(1 - union(cells + loads) / wall, 4),
        "overhead_share_with_loading": round(1 - computing / wall, 4),
        "peak_process_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, help="items per explainer; the default sweep's sizes where left out")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    arguments = [] if options.n is None else ["--n", str(options.n)]
    measure([*arguments, "--n", "4"] if options.n is None else arguments)  # fills the caches
    result = measure(arguments)
    for name, value in result.items():
        print(f"{name:30} {value:>10}")
    if options.json:
        print(json.dumps({"benchmark": "sweep_overhead", "n": options.n, **result}))


if __name__ == "__main__":
    main()
