"""A linear mixed model as a check of the estimates.

Reference:
    Laird and Ware 1982, Random-effects models for longitudinal data, Biometrics 38.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from userstudy.analysis.crossed import Clusters, Floats

__all__ = ["Mixed", "mixed_model"]

FAILED = (
    "The mixed model failed: it returned fixed effects that least squares on the same ratings contradicts."
)
UNFITTED = "The mixed model could not be fitted."


class Mixed(NamedTuple):
    """One coefficient of a mixed model, with its standard error and p by the normal distribution."""

    estimate: float
    error: float
    p: float


def mixed_model(outcome: Floats, columns: Floats, clusters: Clusters) -> tuple[list[Mixed | None], str]:
    """Return coefficients with random intercepts of participants, by restricted maximum likelihood.

    Source items are fixed effects, which keeps it fast; with a balanced design the coefficients and errors are
    those of random intercepts of items, too. It takes a variant's effect to be the same for all participants
    and items, so its intervals are too narrow where it is not: it checks estimates, no verdict rests on it.

    MixedLM can report success with fixed effects of 0.0 (statsmodels issue 10239). What it returns is taken
    only if its likelihood is finite, and not below that of least squares on the same columns, a special case.

    Args:
        outcome: [answer].
        columns: [answer, column], without a constant.
        clusters: who answered about what.

    Returns:
        One for each column, None where there is none, and what is to be said about it, or "".
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.regression.mixed_linear_model import MixedLM

    width = columns.shape[1]
    missing: list[Mixed | None] = [None] * width
    items = np.equal.outer(clusters.items, np.unique(clusters.items)).astype(float)
    design = np.concatenate([columns, items], axis=1)
    size = design.shape[1]
    if len(np.unique(clusters.participants)) < 2 or len(outcome) <= size or np.ptp(outcome) == 0:
        return missing, UNFITTED
    if np.linalg.matrix_rank(design) < size:
        return missing, UNFITTED
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            model = MixedLM(outcome, design, groups=clusters.participants)
            # Not lbfgs: it can end at a variance of 0 or without bounds, with an infinite likelihood.
            fitted = model.fit(method=["bfgs", "powell"])
            errors, p = np.asarray(fitted.bse_fe), np.asarray(fitted.pvalues)
        except (np.linalg.LinAlgError, ValueError):
            return missing, UNFITTED
    if not (np.isfinite(errors[:width]).all() and np.isfinite(fitted.fe_params[:width]).all()):
        return missing, UNFITTED
    plain = OLS(outcome, design).fit()
    if failed(np.asarray(fitted.fe_params), float(fitted.llf), plain.params, _restricted(plain, design)):
        return missing, FAILED
    return [Mixed(float(fitted.fe_params[k]), float(errors[k]), float(p[k])) for k in range(width)], ""


def failed(found: Floats, likelihood: float, plain: Floats, plain_likelihood: float) -> bool:
    """Return whether a mixed model's result is one of its known failures.

    Args:
        found: its fixed effects.
        likelihood: its restricted log-likelihood, nats.
        plain: the coefficients of least squares.
        plain_likelihood: the restricted log-likelihood of these, which the mixed model contains.
    """
    all_zero = bool((found == 0).all()) and not np.allclose(plain, 0)
    return all_zero or not np.isfinite(likelihood) or likelihood < plain_likelihood - 0.01


def _restricted(plain: object, design: Floats) -> float:
    """Return the restricted log-likelihood of a least-squares fit, as MixedLM counts it.

    -((n - k) (log(2 pi RSS / (n - k)) + 1) + log det(X' X)) / 2        n answers, k columns
    """
    n, k = design.shape
    rss = float(plain.ssr)  # type: ignore[attr-defined]
    if rss <= 0:
        return -np.inf
    _, determinant = np.linalg.slogdet(design.T @ design)
    return float(-((n - k) * (np.log(2 * np.pi * rss / (n - k)) + 1) + determinant) / 2)
