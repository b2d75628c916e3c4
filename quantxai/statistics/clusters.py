"""Differences summed by group, and the standard error that follows.

Everything works on *differences*, variant minus reference, one per item, and on *groups*: items of one
group (a relation, a premise) are not independent, so groups, not items, are resampled and flipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Floats", "blocks", "cluster_sums", "robust_error", "standard_error", "with_pseudo_items"]

Floats = NDArray[np.float64]

_BLOCK = 2**21
"""Resampled cluster weights or signs held in memory at once, numbers (16 MiB)."""


def cluster_sums(
    differences: ArrayLike, groups: ArrayLike, names: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Return the sum and the number of differences of every group.

    Args:
        differences: one per item.
        groups: the items' groups.
        names: sorted names of all groups, for columns that lack some; by default those in `groups`.
    """
    found = np.asarray(groups)
    known = np.unique(found) if names is None else np.asarray(names)
    codes = np.searchsorted(known, found)
    sums = np.bincount(codes, np.asarray(differences, float), len(known)).astype(float)
    return sums, np.bincount(codes, minlength=len(known)).astype(float)


def standard_error(differences: ArrayLike, groups: ArrayLike, *, binary: bool = False) -> float | None:
    """Return the cluster-robust standard error of the mean difference.

        sqrt(G / (G - 1) * sum over groups of (sum of (d - mean))^2) / n

    which is the CR1 error of a regression on a constant (Cameron and Miller 2015, A practitioner's guide to
    cluster-robust inference, J. Hum. Resour. 50). Differences of 0/1
    outcomes get the two items of `bootstrap_intervals`. None with fewer than two groups.
    """
    sums, counts = (column[:, None] for column in cluster_sums(differences, groups))
    if len(sums) < 2:
        return None
    if binary:
        sums, counts = with_pseudo_items(sums, counts)
    return float(robust_error(sums, counts)[0])


def robust_error(sums: Floats, counts: Floats) -> Floats:
    """Return the `standard_error` of every column of cluster sums and counts [group, column]."""
    groups = (counts > 0).sum(0)
    numbers = np.maximum(counts.sum(0), 1)
    residuals = sums - counts * (sums.sum(0) / numbers)
    error: Floats = np.sqrt(groups / np.maximum(groups - 1, 1) * (residuals**2).sum(0)) / numbers
    return error


def with_pseudo_items(sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Append two groups of one item each, with the differences +1 and -1."""
    ones = np.ones((1, sums.shape[1]))
    return np.concatenate([sums, ones, -ones]), np.concatenate([counts, ones, ones])


def blocks(rows: int, width: int) -> Iterator[int]:
    """Split a number of rows into blocks of at most `_BLOCK` numbers each."""
    size = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, size):
        yield min(size, rows - start)
