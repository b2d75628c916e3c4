"""How fast a large run is compared: 20 variants x 25 metrics x 2,000 items, a million measurements.

Beside it, a single comparison the way it is done with scipy alone (`bootstrap` with BCa over groups and
`permutation_test`, the same numbers of resamples), times the number of comparisons. The floor is the
arithmetic that cannot be left out: every comparison's sums by group multiplied once by every
resample's weights and once by every sign pattern, at the speed of one plain matrix product of that shape.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from quantxai.analysis import Analysis
from quantxai.compare import compare
from quantxai.records import Measurement, Metric


def made_up(
    variants: int, metrics: int, items: int, per_group: int
) -> tuple[pd.DataFrame, dict[Any, Metric]]:
    """Return measurements of a parent and variants, a third of the metrics yes/no, 3 % missing."""
    source = np.random.default_rng(0)
    described = {
        ("scorer", f"metric_{m:02d}"): Metric(
            name=f"metric_{m:02d}", kind="binary" if m % 3 == 0 else "continuous", higher_is_better=True,
            margin=0.05, unit="proportion" if m % 3 == 0 else "nats", description="Made up.", confirmatory=m < 5,
        )
        for m in range(metrics)
    }  # fmt: skip
    names = ["full", *(f"variant-{v:02d}" for v in range(1, variants))]
    item = np.array([f"item-{i:05d}" for i in range(items)])
    group = np.array([f"group-{i // per_group:05d}" for i in range(items)])
    frames = []
    for (scorer, metric), told in described.items():
        common = source.standard_normal(items)
        for place, name in enumerate(names):
            value = common - 0.02 * place + 0.5 * source.standard_normal(items)
            if told.kind == "binary":
                value = (value > 0).astype(float)
            value[source.random(items) < 0.03] = np.nan
            fields = (name, "explainer", "dataset", item, group, scorer, metric, value)
            frames.append(pd.DataFrame(dict(zip(Measurement.COLUMNS, fields, strict=True))))
    return pd.concat(frames, ignore_index=True), described


def scipy_alone(items: int, per_group: int, resamples: int, patterns: int) -> float:
    """Return the seconds of one comparison by scipy's own bootstrap and permutation test, on sums by group."""
    sums = np.random.default_rng(1).standard_normal((items // per_group, per_group)).sum(1)
    begin = time.perf_counter()
    stats.bootstrap((sums,), np.mean, n_resamples=resamples, method="BCa", batch=500)
    stats.permutation_test(
        (sums,), np.mean, permutation_type="samples", n_resamples=patterns, batch=500, vectorized=True
    )
    return time.perf_counter() - begin


def floor(groups: int, comparisons: int, products: int) -> float:
    """Return the seconds of so many rows of weights times all comparisons' sums, as one plain product."""
    rows = 20_000
    weights, sums = np.ones((rows, groups)), np.ones((groups, comparisons))
    best = math.inf
    for _ in range(3):
        begin = time.perf_counter()
        weights @ sums
        best = min(best, time.perf_counter() - begin)
    return best * products / rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compare once, and what stands beside it."""
    frame, metrics = made_up(options.variants, options.metrics, options.items, options.per_group)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cores = time.perf_counter(), time.process_time()
    findings = compare(frame, metrics, analysis=Analysis(resamples=options.resamples))
    wall, cores = time.perf_counter() - wall, time.process_time() - cores
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = max(f.family for f in findings)
    patterns = max(options.resamples, math.ceil(10 * largest / 0.05))
    groups = options.items // options.per_group
    # Sums and counts are both resampled; continuous metrics are flipped as they are and as ranks.
    continuous = sum(f.kind == "continuous" for f in findings) / len(findings)
    flips = patterns * (2 * continuous + (1 - continuous) * (options.per_group > 1))
    least = floor(groups, len(findings), int(2 * options.resamples + flips))
    alone = scipy_alone(options.items, options.per_group, options.resamples, patterns) * len(findings)
    return {
        "measurements": len(frame),
        "comparisons": len(findings),
        "seconds": round(wall, 2),
        "core_seconds": round(cores, 2),
        "floor_seconds": round(least, 2),
        "of_floor": round(wall / least, 2),
        "scipy_seconds": round(alone, 1),
        "times_faster_than_scipy": round(alone / wall, 1),
        "peak_memory_gib": round(peak / 2**20, 2),
        "memory_of_the_table_alone_gib": round(before / 2**20, 2),
        "resamples": options.resamples,
        "sign_patterns": patterns,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", type=int, default=20, help="the parent counted in")
    parser.add_argument("--metrics", type=int, default=25)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--per-group", type=int, default=1, help="items of one group")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="file to write the JSON to")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    found = {"benchmark": "compare", "per_group": options.per_group, **measure(options)}
    for name, value in found.items():
        print(f"{name:32} {value:>12}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
