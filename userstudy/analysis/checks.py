"""Other ways to the same answer, beside the one that decides: verdicts do not rest on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from quantxai import statistics
from userstudy.analysis.comparison import Comparison
from userstudy.analysis.crossed import Clusters
from userstudy.analysis.mixed import mixed_model
from userstudy.analysis.ordinal import estimating_equations, log_odds

__all__ = ["add_checks"]

_PATTERNS = 10_000
"""Patterns of signs drawn where there are more."""


def add_checks(
    found: Sequence[Comparison], answers: Mapping[str, pd.DataFrame], variants: Sequence[str], alpha: float
) -> None:
    """Add ordinal regressions, the mixed model and signed ranks to comparisons.

    Args:
        found: the comparisons; values and notes are added to them.
        answers: first answers by question.
        variants: those compared with the reference.
        alpha: 1 - the intervals' level.
    """
    for one in found:
        one.values["p_wilcoxon"] = _signed_ranks(one)
    for question, table in answers.items():
        own = {one.variant: one for one in found if one.question.id == question and not one.pairwise}
        present = [v for v in variants if v in own and own[v].comparable]
        if present:
            _regressions([own[variant] for variant in present], table, alpha)


def _signed_ranks(one: Comparison) -> float | None:
    """Return the Wilcoxon signed-rank p of participants' mean differences; None with fewer than two."""
    differences = one.by_participant if one.comparable else np.zeros(0)
    if len(differences) < 2:
        return None
    ranks = statistics.signed_ranks(differences)[:, None]
    return float(statistics.sign_flip_tests(ranks, _PATTERNS, np.random.default_rng(0))[0])


def _regressions(found: Sequence[Comparison], table: pd.DataFrame, alpha: float) -> None:
    """Add the regressions of one question on its variants."""
    shown = table["variant"].to_numpy()
    outcome, clusters = table["value"].to_numpy(float), Clusters.of(table)
    columns = np.stack([shown == one.variant for one in found], axis=1).astype(float)
    ordinal = log_odds(outcome, columns, clusters)
    equations = estimating_equations(outcome, columns, clusters.participants)
    mixed, note = mixed_model(outcome, columns, clusters)
    for one, odds, equation, linear in zip(found, ordinal, equations, mixed, strict=True):
        if odds is None:
            one.notes.append(
                "No odds ratio: answers are all equal, a variant has only highest or lowest ones, or too few gave any."
            )
        elif odds.error > 0:
            half = odds.quantile(alpha / 2) * odds.error
            one.values |= {
                "log_odds": odds.mean,
                "log_odds_low": odds.mean - half,
                "log_odds_high": odds.mean + half,
                "p_ordinal": min(1.0, 2 * odds.tail(abs(odds.mean) / odds.error)),
            }
        if equation is not None:
            one.values |= {"gee_log_odds": equation[0], "p_gee": equation[1]}
        if linear is not None:
            half = float(stats.norm.isf(alpha / 2)) * linear.error
            one.values |= {
                "mixed_estimate": linear.estimate,
                "mixed_low": linear.estimate - half,
                "mixed_high": linear.estimate + half,
                "p_mixed": linear.p,
            }
        if note:
            one.notes.append(note)
