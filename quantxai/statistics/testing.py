"""Tests of no difference, of equivalence and of many at once.

References:
    Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57. Holm 1979, Scand. J. Stat. 6. McNemar 1947,
    Psychometrika 12. Phipson and Smyth 2010, Permutation p-values should never be zero, Stat. Appl. Genet.
    Mol. Biol. 9. Rosner, Glynn and Lee 2006, The Wilcoxon signed rank test for paired comparisons of
    clustered data, Biometrics 62. Schuirmann 1987, J. Pharmacokinet. Biopharm. 15. Skillings and Wolfe
    1978, Distribution-free tests for ordered alternatives in a randomized block design, JASA 73.
    Wilcoxon 1945, Individual comparisons by ranking methods, Biometrics Bull. 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests

from quantxai.records import Correction
from quantxai.statistics.clusters import Floats, blocks, cluster_sums, robust_error, with_pseudo_items

__all__ = [
    "adjusted",
    "concordance",
    "equivalence_tests",
    "mcnemar_exact",
    "sign_flip_permutation",
    "sign_flip_tests",
    "signed_ranks",
]


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return the two-sided exact McNemar p of two paired 0/1 outcomes on independent items.

    Binomial test of the pairs that differ against 1/2 (McNemar 1947). None without a pair; 1 where
    no pair differs.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.size == 0:
        return None
    up, down = int((second > first).sum()), int((second < first).sum())
    return float(stats.binomtest(up, up + down, 0.5).pvalue) if up + down else 1.0


def sign_flip_permutation(
    differences: ArrayLike, groups: ArrayLike, resamples: int, rng: np.random.Generator
) -> float | None:
    """Return the two-sided p of the mean difference when whole groups change sign at random.

    None without data. See `sign_flip_tests`.
    """
    sums, _ = cluster_sums(differences, groups)
    return float(sign_flip_tests(sums[:, None], resamples, rng)[0]) if len(sums) else None


def sign_flip_tests(sums: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Return the sign-flip permutation p of many columns measured on the same groups.

    Under the null hypothesis a group's sum of differences is as likely with the opposite sign. With
    k groups whose sum is not zero there are 2^k sign patterns: all are enumerated if they are no more
    than `resamples`, otherwise that many are drawn, shared by all columns, and

        p = (1 + number at least as far from zero) / (1 + resamples)      (Phipson and Smyth 2010)

    Args:
        sums: sum of differences [group, column]; 0 where a column has no data.
        resamples: patterns drawn, and the largest number enumerated.
        rng: source of randomness.

    Returns:
        p [column]; the smallest possible is 2 / 2^k or 1 / (1 + resamples).
    """
    observed = np.abs(sums.sum(0))
    # Patterns that tie with the observed one must count as such in spite of rounding.
    threshold = observed - 1e-9 * np.abs(sums).sum(0)
    moving = (sums != 0).sum(0)
    p = np.ones(sums.shape[1])
    exact = 2.0 ** np.minimum(moving, 1000) <= resamples
    for column in np.flatnonzero(exact & (moving > 0)):
        values = sums[sums[:, column] != 0, column]
        patterns = np.arange(2 ** (len(values) - 1))[:, None] >> np.arange(len(values)) & 1
        p[column] = (np.abs((1 - 2 * patterns) @ values) >= threshold[column]).mean()
    drawn = np.flatnonzero(~exact)
    if len(drawn):
        reached = np.zeros(len(drawn))
        for rows in blocks(resamples, len(sums)):
            bits = np.unpackbits(rng.integers(256, size=(rows, -(-len(sums) // 8)), dtype=np.uint8), axis=1)
            signs = 1.0 - 2.0 * bits[:, : len(sums)]
            reached += (np.abs(signs @ sums[:, drawn]) >= threshold[drawn]).sum(0)
        p[drawn] = (1 + reached) / (1 + resamples)
    return p


def signed_ranks(differences: ArrayLike) -> Floats:
    """Return the ranks of the differences' sizes, with the differences' signs; 0 where there is none.

    Equal sizes share their mean rank, and items without a difference are left out of the ranking
    (Wilcoxon 1945). Summed by group and given to `sign_flip_tests`, they make the signed-rank test of
    clustered pairs (Rosner, Glynn and Lee 2006); with every item a group of its own, Wilcoxon's.
    """
    values = np.asarray(differences, float)
    ranks = np.zeros(len(values))
    moved = values != 0
    ranks[moved] = stats.rankdata(np.abs(values[moved])) * np.sign(values[moved])
    return ranks


def concordance(values: ArrayLike) -> Floats:
    """Return Kendall's tau-a of every item's values with the order of the columns, [item], -1 to 1.

    The number of pairs of columns in which the later is higher, less that in which it is lower, over the
    number of pairs. Summed over items this is the Jonckheere-Terpstra statistic of a randomized block
    design in which each item is a block (Skillings and Wolfe 1978). Without a trend an item's columns are
    exchangeable, and reversing them turns the sign round, so `sign_flip_tests` of its sums by group test it.

    Args:
        values: [item, column], columns in the order of the trend.
    """
    table = np.asarray(values, float)
    width = table.shape[1]
    total = np.zeros(len(table))
    for earlier in range(width):
        total += np.sign(table[:, earlier + 1 :] - table[:, earlier : earlier + 1]).sum(1)
    found: Floats = total / (width * (width - 1) / 2)
    return found


def equivalence_tests(sums: Floats, counts: Floats, margins: ArrayLike, *, binary: bool = False) -> Floats:
    """Return the p of equivalence within a margin, for many columns measured on the same groups.

    The larger of the p-values of two one-sided tests (Schuirmann 1987), that the mean difference is at
    most -margin and that it is at least +margin:

        max of P(T > (mean + margin) / error), P(T > (margin - mean) / error)

    with Student's t of G - 1 degrees of freedom and the cluster-robust error of G groups. Differences of
    0/1 outcomes get the two items of `bootstrap_intervals`.

    Args:
        sums: sum of differences [group, column].
        counts: number of differences [group, column]; 0 where a column has no data.
        margins: the margin of each column, in the unit of its differences.
        binary: whether the differences are those of outcomes that are 0 or 1.

    Returns:
        p [column]; nan with fewer than two groups with data. Where nothing varies, the smallest that a sign
        test of so many groups can have, 2^(1 - G), inside the margin, since a few that agree show little of
        others; 1 on it or outside.
    """
    groups = (counts > 0).sum(0)
    if binary:
        sums, counts = with_pseudo_items(sums, counts)
    mean = sums.sum(0) / np.maximum(counts.sum(0), 1)
    room = np.asarray(margins, float) - np.abs(mean)
    error = robust_error(sums, counts)
    varies = error > 1e-12 * np.abs(mean)
    p: Floats = stats.t.sf(room / np.where(varies, error, 1), np.maximum(groups - 1, 1))
    p = np.where(varies, p, np.where(room > 0, 2.0 ** (1 - np.maximum(groups, 1)), 1.0))
    p[groups < 2] = np.nan
    return p


def adjusted(p: Sequence[float | None], correction: Correction) -> list[float | None]:
    """Return p-values corrected for their number; None stays None and is no member of the family.

    holm and bonferroni hold the chance of any false finding in the family (Holm 1979);
    benjamini-hochberg holds the expected share of false ones among the findings (1995).
    """
    known = [value for value in p if value is not None]
    if correction == "none" or not known:
        return list(p)
    method = {"benjamini-hochberg": "fdr_bh"}.get(correction, correction)
    found = iter(multipletests(known, method=method)[1].tolist())
    return [None if value is None else next(found) for value in p]
