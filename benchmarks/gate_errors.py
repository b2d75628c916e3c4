"""How often an outcome passes the gate that is worse by exactly its margin: the table in docs/gate.md.

`python benchmarks/gate_errors.py` prints, for samples of different kinds, the share of 2,000 samples on the
edge of the margin whose one-sided 95 % bound lies inside: of the bootstrap that the gate uses, and of
Student's t. It should be 0.05; its Monte Carlo error is 0.005.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from quantxai.statistics import bootstrap_intervals, cluster_sums
from quantxai.statistics.clusters import Floats, robust_error, with_pseudo_items

ALPHA, SAMPLES, TOGETHER, RESAMPLES = 0.05, 2_000, 250, 2_000
RNG = np.random.default_rng(1)
Draw = Callable[[int, int], Floats]


def binary(lost: float, won: float) -> Draw:
    shares = [lost, 1 - lost - won, won]
    return lambda n, size: RNG.choice([-1.0, 0.0, 1.0], p=shares, size=n)


def log_normal(sign: int) -> Draw:
    return lambda n, size: sign * (RNG.lognormal(0, 1, n) - np.exp(0.5)) - 0.5


def normal(n: int, size: int) -> Floats:
    groups = RNG.normal(0, 0.5 if size > 1 else 0, n // size).repeat(size)
    return groups + RNG.normal(-0.5, 1, n)


def passed(draw: Draw, n: int, size: int, margin: float, *, is_binary: bool) -> tuple[float, float]:
    """Return the share of samples that pass by the bootstrap's bound, and by Student's t."""
    groups = np.repeat(np.arange(n // size), size)
    found = np.zeros(2)
    for _ in range(SAMPLES // TOGETHER):
        columns = [cluster_sums(draw(n, size), groups) for _ in range(TOGETHER)]
        sums, counts = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        (ends,) = bootstrap_intervals(sums, counts, RESAMPLES, RNG, [1 - 2 * ALPHA], binary=is_binary)
        sums, counts = with_pseudo_items(sums, counts) if is_binary else (sums, counts)
        half = stats.t.ppf(1 - ALPHA, n // size - 1) * robust_error(sums, counts)
        found += [(ends[0] > -margin).sum(), (sums.sum(0) / counts.sum(0) - half > -margin).sum()]
    return float(found[0] / SAMPLES), float(found[1] / SAMPLES)


def main() -> None:
    cases: list[tuple[str, Draw, tuple[int, ...], int, float, bool]] = [
        ("0/1, 10 % lost, margin 0.1", binary(0.1, 0), (60, 120, 300), 1, 0.1, True),
        ("0/1, 15 % lost and 5 % won", binary(0.15, 0.05), (60, 120, 300), 1, 0.1, True),
        ("normal", normal, (16, 40, 120), 1, 0.5, False),
        ("18 groups of 12, normal", normal, (216,), 12, 0.5, False),
        ("log-normal, long tail of harm", log_normal(-1), (16, 40, 120), 1, 0.5, False),
        ("log-normal, long tail of gain", log_normal(1), (16, 40, 120), 1, 0.5, False),
    ]
    for name, draw, sizes, size, margin, is_binary in cases:
        for n in sizes:
            bootstrap, student = passed(draw, n, size, margin, is_binary=is_binary)
            print(f"{name:32} n = {n:3}  bootstrap {bootstrap:.3f}  t {student:.3f}", flush=True)


if __name__ == "__main__":
    main()
