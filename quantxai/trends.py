"""Does a metric rise or fall with the bits of one method? One test instead of a comparison per width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai import statistics
from quantxai.analysis import Analysis
from quantxai.pairs import Series, series_of
from quantxai.records import Metric, Trend, digest

__all__ = ["MIN_WIDTHS", "methods_by_bits", "trends"]

MIN_WIDTHS = 3
"""Widths, the parent's counted in, from which a method has a trend: two widths are a comparison."""


def methods_by_bits(
    variants: Sequence[Mapping[str, Any]], receipts: Mapping[str, Mapping[str, Any]], parent: str
) -> dict[str, list[tuple[float, str]]]:
    """Return the widths and variants of every method that has a trend, rising to the parent's.

    Controls are left out; of several variants of one method at one width the first counts.

    Args:
        variants: the manifest's entries.
        receipts: what the quantizers did, by variant: `weight_bits` is read.
        parent: the unquantized variant; it comes last.
    """
    found: dict[str, dict[float, str]] = {}
    for entry in variants:
        name = str(entry["name"])
        bits = receipts.get(name, {}).get("weight_bits")
        if name != parent and not entry.get("control") and isinstance(bits, int | float):
            found.setdefault(str(entry.get("method")), {}).setdefault(float(bits), name)
    top = receipts.get(parent, {}).get("weight_bits")
    last = [(float(top) if isinstance(top, int | float) else 16.0, parent)]
    return {
        method: [*sorted(by_bits.items()), *last]
        for method, by_bits in found.items()
        if len(by_bits) + 1 >= MIN_WIDTHS
    }


def trends(
    measurements: pd.DataFrame,
    metrics: Mapping[tuple[str, str], Metric],
    methods: Mapping[str, Sequence[tuple[float, str]]],
    analysis: Analysis | None = None,
    seed: int = 0,
) -> list[Trend]:
    """Test every directional metric for a trend over each method's bits, item by item.

    The statistic is Jonckheere and Terpstra's over blocks (`statistics.concordance`): each item is a block,
    so that what differs between items does not matter, and whole groups are flipped. p-values are corrected
    over all trends (Benjamini and Hochberg 1995).

    Args:
        measurements: `Measurement.COLUMNS`.
        metrics: what each metric is, by scorer and name.
        methods: widths and variants of each method, as `methods_by_bits` returns them.
        analysis: level and resamples; the defaults where left out.
        seed: together with the names of the groups it decides every random number.

    Returns:
        One for each method, data set and metric with an item that has a value at every width.
    """
    analysis = analysis or Analysis()
    found: list[Trend] = []
    if not methods:
        return found
    for series, metric, values, groups in series_of(measurements, metrics):
        for method, widths in methods.items():
            # A width that failed leaves the others a trend, if they are enough.
            measured = [(bits, name) for bits, name in widths if name in values.columns]
            if metric.higher_is_better is None or len(measured) < MIN_WIDTHS or measured[-1] != widths[-1]:
                continue
            names = [name for _, name in measured]
            table = values[names].to_numpy()
            complete = ~np.isnan(table).any(1)
            if complete.any():
                found.append(
                    _trend(
                        series, metric, (method, measured), table[complete], groups[complete], analysis, seed
                    )
                )
    corrected = statistics.adjusted([trend.p for trend in found], "benjamini-hochberg")
    return [t.model_copy(update={"p_adjusted": p}) for t, p in zip(found, corrected, strict=True)]


def _trend(
    series: Series,
    metric: Metric,
    method: tuple[str, Sequence[tuple[float, str]]],
    table: NDArray[np.float64],
    groups: NDArray[np.str_],
    analysis: Analysis,
    seed: int,
) -> Trend:
    tau = statistics.concordance(table)
    rng = np.random.default_rng(int(digest([seed, *np.unique(groups).tolist()])[:16], 16))
    interval = statistics.cluster_bootstrap(tau, groups, analysis.resamples, rng, 1 - analysis.alpha)
    name, widths = method
    explainer, dataset, scorer, _ = series
    return Trend(
        explainer=explainer, dataset=dataset, scorer=scorer, metric=metric.name, kind=metric.kind,
        higher_is_better=metric.higher_is_better, unit=metric.unit, method=name,
        bits=[bits for bits, _ in widths], variants=[variant for _, variant in widths],
        n=len(tau), groups=len(np.unique(groups)), tau=float(tau.mean()),
        ci_low=max(-1.0, interval.low) if interval else None,
        ci_high=min(1.0, interval.high) if interval else None,
        p=statistics.sign_flip_permutation(tau, groups, analysis.resamples, rng), p_adjusted=None,
    )  # fmt: skip
