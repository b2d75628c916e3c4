"""Regression of ratings with participants and source items both taken as samples.

Each participant sees a source item under one variant only, so there is no table of differences to average:
least squares holds participants and items equal, and the error of a coefficient is made of what other
participants and what other items would change.

References:
    Bell and McCaffrey 2002, Bias reduction in standard errors for linear regression with multi-stage
    samples, Survey Methodology 28. Cameron, Gelbach and Miller 2011, Robust inference with multiway
    clustering, J. Bus. Econ. Stat. 29. Clark 1973, The language-as-fixed-effect fallacy, J. Verbal Learning
    Verbal Behav. 12. Pustejovsky and Tipton 2018, Small-sample methods for cluster-robust variance estimation
    and hypothesis testing in fixed effects models, J. Bus. Econ. Stat. 36.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai.statistics.crossed import Crossed

__all__ = ["Clusters", "combined", "group_names", "regress"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_TINY = 1e-9
"""Share of a squared length below which it is rounding."""
_ALONE = 1e-8
"""Share of a residual's direction below which its cluster alone determines it."""
_MOST_ALONE = 0.05
"""Share of a coefficient's squared influence in such directions above which its variance is not known."""


@dataclass(frozen=True)
class Clusters:
    """Who gave each answer about what, as codes from 0 [answer].

    Attributes:
        participants: who answered.
        items: about which source item.
        groups: of which group of source items.
    """

    participants: Codes
    items: Codes
    groups: Codes

    @classmethod
    def of(cls, ratings: pd.DataFrame) -> Clusters:
        """Return those of a table of ratings."""
        columns = (ratings["participant"], ratings["item"], group_names(ratings))
        return cls(*(pd.factorize(column)[0] for column in columns))

    def of_rows(self, rows: NDArray[np.bool_]) -> Clusters:
        """Return those of some answers."""
        return Clusters(self.participants[rows], self.items[rows], self.groups[rows])

    @property
    def sizes(self) -> tuple[int, int]:
        """How many participants and groups there are."""
        return len(np.unique(self.participants)), len(np.unique(self.groups))

    @property
    def cells(self) -> Codes:
        """The participant and group of every answer as one code."""
        found: Codes = np.unique(
            self.participants * (self.groups.max() + 1) + self.groups, return_inverse=True
        )[1]
        return found


def group_names(ratings: pd.DataFrame) -> pd.Series[str]:
    """Return each answer's group of source items; groups of different data sets are different ones."""
    return ratings["dataset"].astype(str) + "/" + ratings["group"].astype(str)


def regress(
    outcomes: Floats, columns: Floats, clusters: Clusters, *, fixed: bool = True
) -> list[list[Crossed | None]]:
    """Return the coefficients of columns in least-squares regressions of outcomes, with their errors.

    With participants and source items as fixed effects, so that it does not matter who rated what. A
    coefficient's variance is V_participants + V_groups - V_both (Cameron, Gelbach and Miller 2011), each the
    sandwich of sums over clusters c with the bias-reduced residuals of Bell and McCaffrey (2002):

        V = B (sum of X_c' (I - H_cc)^(-1/2) e_c e_c' (I - H_cc)^(-1/2) X_c) B        B = (X' X)^-1

    X being the columns and H the projection on them and the fixed effects, taken out of X; the square root
    leaves out directions that the cluster alone determines (Pustejovsky and Tipton 2018).

    Args:
        outcomes: [answer, outcome].
        columns: [answer, column]; without fixed effects they hold the constant.
        clusters: who answered about what.
        fixed: whether participants and source items are held equal.

    Returns:
        [outcome][column]; `Crossed` calls participants seeds, and counts those with answers where the column is not
        0, and so groups. None where the column does not vary within
        participants and items, with fewer than two participants or groups, or where it rests on what one
        participant or group alone determines: how others would differ is not in the answers.
    """
    participants, groups = clusters.sizes
    found: list[list[Crossed | None]] = [[None] * columns.shape[1] for _ in range(outcomes.shape[1])]
    if participants < 2 or groups < 2:
        return found
    basis = _basis(_dummies(clusters)) if fixed else np.zeros((len(outcomes), 0))
    own = columns - basis @ (basis.T @ columns)
    kept = np.flatnonzero(np.square(own).sum(0) > _TINY * np.square(columns).sum(0))
    own = own[:, kept]
    if len(kept) == 0 or np.linalg.matrix_rank(own) < len(kept):
        return found
    influence = own @ np.linalg.inv(own.T @ own)
    centred = outcomes - basis @ (basis.T @ outcomes)
    beta = influence.T @ centred
    residuals = centred - own @ beta
    # Where the model says it all, what is left is rounding.
    residuals[:, np.square(residuals).sum(0) <= _TINY**2 * np.square(outcomes).sum(0)] = 0
    beta[:, np.square(centred).sum(0) <= _TINY**2 * np.square(outcomes).sum(0)] = 0
    hat = np.concatenate([basis, _basis(own)], axis=1)
    kinds = (clusters.participants, clusters.groups, clusters.cells)
    variances, alone = zip(*(_variances(influence, residuals, hat, codes) for codes in kinds), strict=True)
    # With one participant a form the whole difference lies in what each of them alone determines.
    known = np.maximum(alone[0], alone[1]) <= _MOST_ALONE
    for outcome, row in enumerate(found):
        for place, column in enumerate(kept):
            by = [float(variance[place, outcome]) for variance in variances]
            sizes = clusters.of_rows(columns[:, column] != 0).sizes
            if min(sizes) > 1 and known[place]:
                row[column] = combined(float(beta[place, outcome]), (by[0], by[1], by[2]), sizes)
    return found


def combined(estimate: float, variances: tuple[float, float, float], sizes: tuple[int, int]) -> Crossed:
    """Return an estimate with its variances: by participant, by group, and what both of these contain.

    Args:
        estimate: the estimate.
        variances: these three.
        sizes: the number of participants and of groups it rests on.
    """
    return Crossed(estimate, *variances, *sizes, typical=float(sizes[1]))


def _dummies(clusters: Clusters) -> Floats:
    columns = [np.equal.outer(codes, np.unique(codes)) for codes in (clusters.participants, clusters.items)]
    found: Floats = np.concatenate(columns, axis=1).astype(float)
    return found


def _basis(columns: Floats) -> Floats:
    """Return an orthonormal basis of what the columns span."""
    sizes, vectors = np.linalg.eigh(columns.T @ columns)
    kept = sizes > _TINY * max(sizes.max(initial=0.0), 1e-300)
    found: Floats = columns @ (vectors[:, kept] / np.sqrt(sizes[kept]))
    return found


def _variances(influence: Floats, residuals: Floats, hat: Floats, codes: Codes) -> tuple[Floats, Floats]:
    """Return the variance of the coefficients by clusters [column, outcome], residuals bias-reduced.

    And the share of each coefficient's squared influence in directions that one cluster alone determines
    [column]: their residuals are 0, whatever other clusters would answer.
    """
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    clusters = np.split(order, starts[1:])
    single = np.array([rows[0] for rows in clusters if len(rows) == 1], dtype=int)
    left = 1 - np.square(hat[single]).sum(1)
    scaled = residuals[single] * np.where(left > _ALONE, left, np.inf)[:, None] ** -0.5
    total = np.square(influence[single]).T @ np.square(scaled)
    alone = np.square(influence[single][left <= _ALONE]).sum(0)
    for rows in clusters:
        if len(rows) > 1:
            sizes, vectors = np.linalg.eigh(np.eye(len(rows)) - hat[rows] @ hat[rows].T)
            root = np.where(sizes > _ALONE, sizes, np.inf) ** -0.5
            reduced = vectors @ (root[:, None] * (vectors.T @ residuals[rows]))
            total += np.square(influence[rows].T @ reduced)
            alone += np.square(vectors[:, sizes <= _ALONE].T @ influence[rows]).sum(0)
    return total, alone / np.square(influence).sum(0)
