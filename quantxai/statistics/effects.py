"""How large a difference is, and what a sample could have shown of it.

References:
    Cliff 1993, Dominance statistics: ordinal analyses to answer ordinal questions, Psychol. Bull. 114.
    Cohen 1988, Statistical power analysis for the behavioral sciences. Julious 2004, Sample sizes for
    clinical trials with normal data, Stat. Med. 23.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from quantxai.statistics.clusters import standard_error

__all__ = ["cliffs_delta", "minimum_detectable", "n_to_resolve", "paired_effect_size"]

_POWER = 0.8


def minimum_detectable(
    differences: ArrayLike,
    groups: ArrayLike,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    binary: bool = False,
) -> float | None:
    """Return the smallest true mean difference a two-sided test would find with the given power.

        k error        with k = t(1 - alpha / 2; G - 1) + t(power; G - 1)

    with the cluster-robust `standard_error` of G groups; alpha is that of a single comparison. A
    difference d of 0/1 outcomes spreads them, too: with v the variance of the differences at hand and m =
    v / error^2 the number of independent items they are worth, it is the d that solves

        d^2 = k^2 (v + d - d^2) / m

    None with fewer than two groups, without any spread to judge by, and where groups are so few that no
    test of theirs reaches alpha: 2^(1 - G) > alpha.
    """
    error = standard_error(differences, groups, binary=binary)
    count = len(np.unique(np.asarray(groups)))
    if not error or 2.0 ** (1 - count) > alpha:
        return None
    df = count - 1
    k = float(stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(power, df))
    if not binary:
        return k * error
    values = np.append(np.asarray(differences, float), [1.0, -1.0])  # the two items of `bootstrap_intervals`
    variance = float(values.var())
    q = (k * error) ** 2 / variance
    return (q + math.sqrt(q**2 + 4 * (1 + q) * q * variance)) / (2 * (1 + q))


def n_to_resolve(
    error: float | None, df: int, estimate: float, margin: float, n: int, level: float
) -> int | None:
    """Return about how many items would settle a difference, if it is as estimated.

    Either the test of no difference finds it with 80 % power, or the two one-sided tests show with 80 %
    power that it lies within the margin, whichever takes fewer. The error falls with the square root of n, so

        difference:   n ((t(1 - level / 2) + t(0.8)) error / |estimate|)^2
        equivalence:  n ((t(1 - level) + t(0.9)) error / (margin - |estimate|))^2     if |estimate| < margin

    where t are quantiles of Student's t (Julious 2004, sections 3 and 5, with the type II error of
    equivalence split between its two tests). Assumes more groups like those at hand.

    Args:
        error: standard error of the estimate at n.
        df: its degrees of freedom, groups - 1.
        estimate: the observed mean difference.
        margin: largest difference called equivalent, same unit.
        n: items at hand.
        level: level a single test has to reach within its family.

    Returns:
        More than n; None where nothing is known about the spread.
    """
    if not error or df < 1:
        return None

    def needed(one_sided: float, power: float, room: float) -> float:
        if room <= 0:
            return math.inf
        return n * float(((stats.t.ppf(1 - one_sided, df) + stats.t.ppf(power, df)) * error / room) ** 2)

    size = abs(estimate)
    fewest = min(needed(level / 2, _POWER, size), needed(level, (1 + _POWER) / 2, margin - size))
    return max(n + 1, math.ceil(fewest)) if math.isfinite(fewest) else None


def paired_effect_size(differences: ArrayLike) -> float | None:
    """Return the mean difference in units of its standard deviation (Cohen's d_z, n - 1 denominator).

    None with fewer than two items or where all differences are equal.
    """
    values = np.asarray(differences, float)
    if values.size < 2 or np.ptp(values) == 0:
        return None
    return float(values.mean() / values.std(ddof=1))


def cliffs_delta(before: ArrayLike, after: ArrayLike) -> float | None:
    """Return P(a value of `after` is above one of `before`) - P(it is below), over all pairs (Cliff 1993).

    The pairing by item is not used: it says how far the two distributions lie apart. -1 to 1; None without
    values on both sides.
    """
    low, high = np.sort(np.asarray(before, float)), np.asarray(after, float)
    if not (low.size and high.size):
        return None
    below, to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + to - low.size).mean() / low.size)
