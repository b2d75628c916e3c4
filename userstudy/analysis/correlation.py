"""Does a metric see what people see? Automatic metrics against the ratings of the same stimuli."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from quantxai import statistics
from userstudy.analysis.crossed import Floats, group_names
from userstudy.analysis.results import MetricCorrelation
from userstudy.settings import StudySettings

__all__ = ["Correlation", "metric_correlations", "spearman"]

FEWEST = 8
"""Fewer groups of source items have too few distinct resamples for a bootstrap."""
_RESAMPLES = 1000
_METRIC = ["explainer", "scorer", "metric"]
_STIMULUS = ["explainer", "item", "variant"]


class Correlation(NamedTuple):
    """A rank correlation with its interval and p."""

    rho: float | None
    low: float | None
    high: float | None
    p: float | None


class _Series(NamedTuple):
    """Which metric is held against which question."""

    explainer: str
    scorer: str
    metric: str
    question: str


def metric_correlations(
    rated: pd.DataFrame,
    measurements: pd.DataFrame,
    settings: StudySettings,
    reference: str,
    variants: Sequence[str],
    resamples: int = _RESAMPLES,
) -> tuple[MetricCorrelation, ...]:
    """Correlate every metric with the mean rating of the same stimulus, over all variants and for each.

    A stimulus's rating is the mean of its answers less what its raters give on average, so that it does not
    matter that the stimuli of a variant were seen by milder participants. Preferences between a variant and the
    reference are held against the difference of the metric between these. The
    rating of a scale that is better when low is turned round, so that positive means agreement.

    Args:
        rated: first answers with a value, of those who are kept.
        measurements: `Measurement.COLUMNS`; a column `higher_is_better`, where there is one, turns signs.
        settings: the study's.
        reference: the variant the others are compared with.
        variants: the others.
        resamples: of the bootstrap.
    """
    if measurements.empty or rated.empty:
        return ()
    values = measurements.assign(
        item=measurements["explainer"]
        + "/"
        + measurements["dataset"]
        + "/"
        + measurements["item"].astype(str)
    ).dropna(subset=["value"])
    found: list[MetricCorrelation] = []
    for question in settings.questions:
        if not question.numeric:
            continue
        means = _stimulus_means(rated[rated["question"] == question.id], centred=question.kind != "pairwise")
        if question.kind == "likert" and not question.higher_is_better:
            means["rating"] *= -1
        shown = [*variants] if question.kind == "pairwise" else [reference, *variants]
        own = _against(values, reference) if question.kind == "pairwise" else values
        joined = own.merge(means, on=_STIMULUS)
        for name, table in joined.groupby(_METRIC, sort=True):
            found += _correlated(
                table,
                _Series(name[0], name[1], name[2], question.id),
                shown,
                settings.analysis.alpha,
                resamples,
            )
    corrected = statistics.adjusted([one.p for one in found], "benjamini-hochberg")
    return tuple(one.model_copy(update={"p_adjusted": p}) for one, p in zip(found, corrected, strict=True))


def spearman(
    first: Floats, second: Floats, groups: NDArray[np.int64], alpha: float = 0.05, resamples: int = _RESAMPLES
) -> Correlation:
    """Return Spearman's rank correlation with a bootstrap interval over groups.

    On Fisher's scale, z = atanh(rho), where resampled values are close to normal: z -+ t(1 - alpha / 2; G - 1)
    times their standard deviation over resamples of whole groups, and the p of z = 0 that belongs to it.

    Args:
        first: [stimulus].
        second: [stimulus].
        groups: codes from 0 [stimulus].
        alpha: 1 - the interval's level.
        resamples: of the bootstrap.

    Returns:
        rho is None with fewer than three stimuli or where one of both does not vary, the rest also with fewer
        than `FEWEST` groups.
    """
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(None, None, None, None)
    rho = float(stats.spearmanr(first, second).statistic)
    number = len(np.unique(groups))
    if number < FEWEST:
        return Correlation(rho, None, None, None)
    drawn = _resampled(first, second, np.unique(groups, return_inverse=True)[1], resamples)
    if len(drawn) < 0.9 * resamples:
        return Correlation(rho, None, None, None)
    # A correlation of 1 is infinitely far on Fisher's scale; the last distinguishable one is not.
    largest = 1 - 1e-6
    error = float(np.arctanh(np.clip(drawn, -largest, largest)).std(ddof=1))
    z = float(np.arctanh(np.clip(rho, -largest, largest)))
    if error == 0:
        return Correlation(rho, None, None, None)
    half = float(stats.t.isf(alpha / 2, number - 1)) * error
    p = 2 * float(stats.t.sf(abs(z) / error, number - 1))
    return Correlation(rho, float(np.tanh(z - half)), float(np.tanh(z + half)), p)


def _resampled(first: Floats, second: Floats, groups: NDArray[np.int64], resamples: int) -> Floats:
    """Return the correlations of samples of whole groups; those that are not defined are left out.

    A stimulus drawn k times is one with weight k: its rank is the weight below it and half of the weight equal
    to it, which are the mean ranks of a table with repetitions.
    """
    number = groups.max() + 1
    rng = np.random.default_rng(0)
    drawn = rng.integers(number, size=(resamples, number)) + number * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=resamples * number).reshape(resamples, number)[:, groups]
    ranks = [_weighted_ranks(values, weights.astype(float)) for values in (first, second)]
    total = weights.sum(1, keepdims=True)
    centred = [rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks]
    covariance, *variances = (
        (weights * a * b).sum(1) for a, b in (centred, (centred[0],) * 2, (centred[1],) * 2)
    )
    spread = np.sqrt(variances[0] * variances[1])
    kept = spread > 1e-9 * total[:, 0]
    found: Floats = covariance[kept] / spread[kept]
    return found


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean ranks, up to a constant, of values with weights [resample, stimulus]."""
    codes = np.unique(values, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    by_value = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = by_value.cumsum(1) - by_value / 2
    found: Floats = middle[:, codes]
    return found


def _stimulus_means(own: pd.DataFrame, *, centred: bool) -> pd.DataFrame:
    """Return the mean rating of every stimulus, with its cluster."""
    values = own["value"]
    if centred:
        values = values - own.groupby("participant")["value"].transform("mean")
    own = own.assign(rating=values, cluster=group_names(own))
    return (
        own.groupby(_STIMULUS, sort=True)
        .agg(rating=("rating", "mean"), cluster=("cluster", "first"))
        .reset_index()
    )


def _against(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return each variant's value less the reference's of the same item."""
    key = ["explainer", "item", "scorer", "metric"]
    base = values[values["variant"] == reference][[*key, "value"]]
    joined = values[values["variant"] != reference].merge(base, on=key, suffixes=("", "_reference"))
    return joined.assign(value=joined["value"] - joined["value_reference"])


def _correlated(
    table: pd.DataFrame, series: _Series, variants: Sequence[str], alpha: float, resamples: int
) -> Iterator[MetricCorrelation]:
    """Yield the correlations of one metric with one question: over all variants, and of each."""
    better = _direction(table)
    for variant in (None, *variants):
        own = table if variant is None else table[table["variant"] == variant]
        if own.empty:
            continue
        clusters = pd.factorize(own["cluster"])[0]
        values = own["value"].to_numpy(float) * (-1 if better is False else 1)
        found = spearman(values, own["rating"].to_numpy(float), clusters, alpha, resamples)
        yield MetricCorrelation(
            **series._asdict(),
            variant=variant,
            higher_is_better=better,
            stimuli=len(own),
            groups=int(clusters.max()) + 1,
            rho=found.rho,
            ci_low=found.low,
            ci_high=found.high,
            p=found.p,
            p_adjusted=None,
            notes=_notes(found, int(clusters.max()) + 1),
        )


def _direction(table: pd.DataFrame) -> bool | None:
    if "higher_is_better" not in table:
        return None
    known = table["higher_is_better"].dropna()
    return bool(known.iloc[0]) if len(known) else None


def _notes(found: Correlation, groups: int) -> tuple[str, ...]:
    if found.rho is None:
        return ("Fewer than three stimuli, or the metric or the ratings do not vary.",)
    if groups < FEWEST:
        return (f"{groups} groups of source items are too few for an interval.",)
    return () if found.p is not None else ("Hardly any variation: no interval.",)
