"""The mean of differences between two crossed samples, seeds and items, and its variance.

All seeds see the same items, so the mixed model with crossed random effects

    difference of an item in a seed = mean + seed + group of items + what is left

needs no search for its variances: they follow from sums of squares.

References:
    Cameron, Gelbach and Miller 2011, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29.
    Cochran 1964, Approximate significance levels of the Behrens-Fisher test, Biometrics 20. MacKinnon,
    Nielsen and Webb 2024, Jackknife inference with two-way clustering, arXiv:2406.08880. Searle, Casella and
    McCulloch 1992, Variance components, Wiley, chapter 4. Williams 1962, A confidence interval for variance
    components, Biometrika 49.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from quantxai.statistics.clusters import Floats

__all__ = ["Crossed", "crossed"]

_SMALLEST = 1e-300
"""The smallest tail area told apart from 0."""


@dataclass(frozen=True)
class Crossed:
    """The mean of differences between seeds and groups of items, and the variances it is made of.

    Attributes:
        mean: over items and seeds.
        by_seed: variance of the mean judged by how seeds differ, all else included.
        by_group: the same judged by how groups differ.
        residual: the part that both of these contain.
        seeds: number of seeds.
        groups: number of groups.
        typical: number of groups, were all of a typical size: n^2 / sum of sizes^2.
    """

    mean: float
    by_seed: float
    by_group: float
    residual: float
    seeds: int
    groups: int
    typical: float

    @property
    def error(self) -> float:
        """Standard error of the mean: no component is taken to be negative."""
        shared = self.residual
        return math.sqrt(max(self.by_seed, shared) + max(self.by_group, shared) - shared)

    @property
    def seed_sd(self) -> float:
        """Standard deviation between seeds of the mean difference over all items there could be."""
        return math.sqrt(max(0.0, self.seeds * (self.by_seed - self.residual)))

    def seed_sd_limit(self, alpha: float) -> float:
        """Return the upper limit that `seed_sd` stays below with a confidence of 1 - alpha.

        S V_seed is about chi-square with S - 1 degrees of freedom, and what items add to it is taken off
        (Williams 1962). With 3 seeds and alpha = 0.05 the first is multiplied by 19.5.
        """
        df = self.seeds - 1
        most = df / stats.chi2.ppf(alpha, df) * self.by_seed
        return math.sqrt(max(0.0, self.seeds * float(most - self.residual)))

    @property
    def group_sd(self) -> float:
        """Standard deviation between groups of typical size of their mean difference over all seeds."""
        return math.sqrt(max(0.0, self.typical * (self.by_group - self.residual)))

    @property
    def residual_sd(self) -> float:
        """Standard deviation of what is left of the mean difference of such a group in one seed."""
        return math.sqrt(self.seeds * self.typical * self.residual)

    def quantile(self, tail: float) -> float:
        """Return how many standard errors leave `tail` beyond them on one side.

        A mean of Student's quantiles for seeds and for groups, weighted by their variances (Cochran 1964):

            (V_seed t(tail; S - 1) + V_group t(tail; G - 1)) / (V_seed + V_group)
        """
        by_seed = self.by_seed * special.stdtrit(self.seeds - 1, tail)
        by_group = self.by_group * special.stdtrit(self.groups - 1, tail)
        return float(-(by_seed + by_group) / (self.by_seed + self.by_group))

    def tail(self, distance: float) -> float:
        """Return the share beyond a number of standard errors on one side: the inverse of `quantile`."""
        if distance < 0:
            return 1 - self.tail(-distance)
        ends = sorted(float(special.stdtr(n - 1, -distance)) for n in (self.seeds, self.groups))
        # Student's quantile is on one side of the distance at one end, and on the other at the other.
        low, high = max(ends[0] * (1 - 1e-9), _SMALLEST), min(ends[1] * (1 + 1e-9), 0.5)
        if self.quantile(low) <= distance:
            return low
        return float(
            optimize.brentq(lambda p: self.quantile(p) - distance, low, high, xtol=_SMALLEST, rtol=1e-12)
        )


def crossed(sums: Floats, counts: Floats, *, binary: bool = False) -> Crossed:
    """Return the mean of differences and its variances by seed and by group.

    With m(s) the mean in a seed, m the mean of these, and r(g) what a group's sum, averaged over seeds,
    departs from m times its size:

        V_seed     = sum of (m(s) - m)^2 / (S (S - 1))
        V_group    = (G - 1) / G * sum of (r(g) / (1 - size / n))^2 / n^2
        V_residual = (G - 1) / G * sum of (r(g, s) / (1 - size / n))^2 / (n^2 S (S - 1))

    where r(g, s) is what is left of a group's sum in a seed without the group's and the seed's mean. Dividing
    by 1 - size / n makes V_group the jackknife over groups, which holds better than the usual cluster-robust
    variance where sizes differ (MacKinnon, Nielsen and Webb 2024). With groups of one size these are the mean
    squares of the two-way analysis of variance, each over the number of cells, and the variance of m,
    V_seed + V_group - V_residual (as in Cameron, Gelbach and Miller 2011), is that of restricted maximum
    likelihood (Searle, Casella and McCulloch 1992).

    Args:
        sums: sum of the differences of each group in each seed [group, seed].
        counts: number of items of each group; every seed has all of them.
        binary: whether the differences are those of outcomes that are 0 or 1; they then get the two items
            of `bootstrap_intervals`.

    Raises:
        ValueError: fewer than two groups or seeds.
    """
    groups, seeds = sums.shape
    if groups < 2 or seeds < 2:
        raise ValueError(f"two groups and two seeds are the least, not {groups} and {seeds}")
    if binary:
        ones = np.ones((1, seeds))
        sums, counts = np.concatenate([sums, ones, -ones]), np.concatenate([counts, [1.0, 1.0]])
    n, rows = counts.sum(), len(counts)
    means = sums.sum(0) / n
    mean = means.mean()
    left_out = 1 / (1 - counts / n)
    scale = (rows - 1) / rows / n**2
    of_group = sums.mean(1) - counts * mean
    rest = sums - sums.mean(1, keepdims=True) - counts[:, None] * (means - mean)
    return Crossed(
        mean=float(mean),
        by_seed=float(means.var(ddof=1) / seeds),
        by_group=float(scale * ((left_out * of_group) ** 2).sum()),
        residual=float(scale * ((left_out[:, None] * rest) ** 2).sum() / (seeds * (seeds - 1))),
        seeds=seeds,
        groups=groups,
        typical=float(n**2 / (counts**2).sum()),
    )
