"""Ordinal regression of answers on the variant: how the odds of a higher answer change.

The model of proportional odds (McCullagh 1980),

    P(answer <= k) = 1 / (1 + exp(-(threshold_k - x b))),

takes answers as ordered, not as numbers. Its errors allow for answers of one participant, and of one group of
source items, that go together.

References:
    Cameron, Gelbach and Miller 2011, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29.
    Heagerty and Zeger 1996, Marginal regression models for clustered ordinal measurements, JASA 91. McCullagh
    1980, Regression models for ordinal data, J. R. Stat. Soc. B 42.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from quantxai.statistics.crossed import Crossed
from userstudy.analysis.crossed import Clusters, Floats, combined

__all__ = ["estimating_equations", "log_odds", "scores_and_hessian"]

_SEPARATED = 15.0
"""A log odds ratio beyond this is one that grows without end: a variant has only highest or lowest answers."""


def log_odds(answers: Floats, columns: Floats, clusters: Clusters) -> list[Crossed | None]:
    """Return the log odds ratios of columns with two-way clustered variances.

    The maximum likelihood of statsmodels' OrderedModel; the variance is V_participants + V_groups - V_both,
    each the sandwich C / (C - 1) A^-1 (sum over C clusters of s_c s_c') A^-1 with the information A and the
    sums s_c of scores (Cameron, Gelbach and Miller 2011).

    Args:
        answers: [answer], with at least two different ones.
        columns: [answer, column], without a constant.
        clusters: who answered about what.

    Returns:
        One for each column. None where the likelihood has no maximum: a variant has only highest or only
        lowest answers; or with fewer than two participants, groups or different answers.
    """
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    width = columns.shape[1]
    levels = np.unique(answers, return_inverse=True)[1]
    if min(clusters.sizes) < 2 or levels.max(initial=0) < 1:
        return [None] * width
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            model = _with_score(OrderedModel)(levels, columns, distr="logit")
            # The default, Nelder-Mead, stops far from the maximum.
            fitted = model.fit(method="bfgs", disp=False, skip_hessian=True)
            thresholds = model.transform_threshold_params(fitted.params)[1:-1]
        except (np.linalg.LinAlgError, ValueError):
            return [None] * width
    beta = np.asarray(fitted.params[:width], float)
    scores, hessian = scores_and_hessian(levels, columns, beta, thresholds)
    if not np.isfinite(hessian).all() or np.linalg.cond(hessian) > 1 / np.finfo(float).eps:
        return [None] * width
    bread = np.linalg.inv(hessian)[:, :width]
    influence = scores @ bread
    variances = [
        _variances(influence, codes) for codes in (clusters.participants, clusters.groups, clusters.cells)
    ]
    found: list[Crossed | None] = []
    for k in range(width):
        by = [float(variance[k]) for variance in variances]
        sizes = clusters.of_rows(columns[:, k] != 0).sizes
        usable = abs(beta[k]) <= _SEPARATED and min(sizes) > 1
        found.append(combined(float(beta[k]), (by[0], by[1], by[2]), sizes) if usable else None)
    return found


def _with_score(model: type[Any]) -> type[Any]:
    """Return OrderedModel with the derivatives of its likelihood in place of differences: faster, more exact."""

    class Model(model):  # type: ignore[misc]
        def score(self, params: Floats) -> Floats:
            width = self.exog.shape[1]
            thresholds = self.transform_threshold_params(params)[1:-1]
            scores, _ = scores_and_hessian(self.endog, self.exog, params[:width], thresholds)
            total = scores.sum(0)
            # Its parameters are the first threshold and the logarithms of the steps between them.
            later = total[width:][::-1].cumsum()[::-1]
            return np.concatenate([total[:width], later * np.append(1.0, np.exp(params[width + 1 :]))])

    return Model


def _variances(influence: Floats, codes: NDArray[np.int64]) -> Floats:
    sums = np.stack([np.bincount(codes, column) for column in influence.T], axis=1)
    number = len(np.unique(codes))
    found: Floats = number / (number - 1) * np.square(sums).sum(0)
    return found


def scores_and_hessian(
    levels: NDArray[np.int64], columns: Floats, beta: Floats, thresholds: Floats
) -> tuple[Floats, Floats]:
    """Return the derivatives of the log-likelihood by coefficients and thresholds.

    With u and l the upper and lower end of an answer's interval, F the logistic distribution, f its density
    and p = F(u) - F(l):

        d/du = f(u) / p      d/dl = -f(l) / p      d2/du2 = f'(u) / p - (f(u) / p)^2
        d2/dl2 = -f'(l) / p - (f(l) / p)^2         d2/dudl = f(u) f(l) / p^2

    Args:
        levels: the answers as codes from 0 [answer].
        columns: [answer, column].
        beta: coefficients [column].
        thresholds: [level - 1].

    Returns:
        Scores [answer, parameter] and Hessian [parameter, parameter].
    """
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    upper, lower = (ends[levels + step] - columns @ beta for step in (1, 0))
    share = np.maximum(special.expit(upper) - special.expit(lower), 1e-300)
    density = [special.expit(end) * special.expit(-end) for end in (upper, lower)]
    slope = [d * (1 - 2 * special.expit(end)) for d, end in zip(density, (upper, lower), strict=True)]
    first = density[0] / share, -density[1] / share
    second = slope[0] / share - first[0] ** 2, -slope[1] / share - first[1] ** 2
    mixed = -first[0] * first[1]
    # How both ends move with each parameter: with every coefficient by -x, with their own threshold by 1.
    own = np.arange(1, len(thresholds) + 1)
    of_upper = np.concatenate([-columns, np.equal.outer(levels + 1, own)], axis=1)
    of_lower = np.concatenate([-columns, np.equal.outer(levels, own)], axis=1)
    scores = of_upper * first[0][:, None] + of_lower * first[1][:, None]
    across = of_upper.T @ (mixed[:, None] * of_lower)
    hessian = (
        of_upper.T @ (second[0][:, None] * of_upper)
        + of_lower.T @ (second[1][:, None] * of_lower)
        + across
        + across.T
    )
    return scores, hessian


def estimating_equations(
    answers: Floats, columns: Floats, participants: NDArray[np.int64]
) -> list[tuple[float, float] | None]:
    """Return log odds ratios and their p by OrdinalGEE, clustered by participant alone.

    With independence as working correlation; the p takes source items as given, so it is smaller than that
    of `log_odds` where variants do better on some items than on others (Heagerty and Zeger 1996).

    Args:
        answers: [answer].
        columns: [answer, column], without a constant.
        participants: who answered, as codes [answer].

    Returns:
        One for each column; None where nothing can be fitted.
    """
    from statsmodels.genmod.generalized_estimating_equations import OrdinalGEE

    width = columns.shape[1]
    if len(np.unique(participants)) < 2 or len(np.unique(answers)) < 2:
        return [None] * width
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            fitted = OrdinalGEE(answers, columns, participants).fit()
            estimates, p_values = fitted.params[-width:], fitted.pvalues[-width:]
        except (np.linalg.LinAlgError, ValueError):
            return [None] * width
    found: list[tuple[float, float] | None] = []
    for estimate, p in zip(estimates, p_values, strict=True):
        usable = np.isfinite(estimate) and np.isfinite(p) and abs(estimate) <= _SEPARATED
        found.append((float(estimate), float(p)) if usable else None)
    return found
