"""A quantizer instead of one checkpoint of it: what several calibration seeds say together.

A quantizer that reads calibration text makes another checkpoint with every seed. Items measured on one
checkpoint, however many, say nothing about the next one (Clark 1973, The language-as-fixed-effect fallacy,
J. Verbal Learn. Verbal Behav. 12), so seeds are a second sample beside the items: `statistics.crossed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai import statistics
from quantxai.analysis import Analysis, with_margins
from quantxai.compare import verdict
from quantxai.pairs import Series, series_of
from quantxai.records import Metric, ReplicatedFinding
from quantxai.statistics.clusters import Floats, cluster_sums
from quantxai.statistics.crossed import Crossed, crossed

__all__ = ["families", "replicated"]


def families(variants: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the replicates in a manifest: name of the first seed's variant, and the names of all seeds.

    Args:
        variants: `variants` of the manifest. Replicates stand beside the first with its method, options and
            execution, each with a seed of its own; other controls beside it, such as noise of its size, are none.
    """
    named = {variant["name"]: variant for variant in variants}
    same = ("method", "options", "execution")
    found: dict[str, list[str]] = {}
    for variant in variants:
        first = named.get(variant.get("beside"))
        if first is None or any(variant[key] != first[key] for key in same):
            continue
        family = found.get(first["name"], [first["name"]])
        if variant["seed"] not in [named[name]["seed"] for name in family]:
            found[first["name"]] = [*family, variant["name"]]
    return found


def replicated(
    measurements: pd.DataFrame,
    metrics: Mapping[tuple[str, str], Metric],
    families: Mapping[str, Sequence[str]],
    reference: str = "full",
    analysis: Analysis | None = None,
) -> list[ReplicatedFinding]:
    """Compare quantizers, over their calibration seeds, with the reference on every metric.

    - Only items with a value for the reference and in every seed count.
    - Interval, test and two one-sided tests of equivalence rest on `Crossed.error` and `Crossed.quantile`.
    - p is corrected by Benjamini-Hochberg over all replicated findings, and so is that of equivalence;
      verdicts follow as in `compare.compare`.

    Args:
        measurements: `Measurement.COLUMNS`, one row per variant, data set, metric and item.
        metrics: what each metric is, by scorer and name.
        families: names of the variants that differ in the seed alone, by the name of the first.
        reference: the variant they are compared with.
        analysis: level and margins; the defaults where left out.

    Returns:
        Sorted by explainer, data set, metric in the order of `metrics`, and first variant. None where fewer
        than two seeds, or no reference, were measured.

    Raises:
        InputError: an unknown metric or margin, or an item measured twice.
    """
    analysis = analysis or Analysis()
    if not families:
        return []
    tables = [
        _table(series, metric, values, groups, reference, families[name])
        for series, metric, values, groups in series_of(measurements, with_margins(analysis, metrics))
        for name in sorted(families)
        if reference in values and sum(member in values for member in families[name]) > 1
    ]
    judged = [_judge(table, analysis.alpha) for table in tables]
    p = statistics.adjusted([one.p for one in judged], "benjamini-hochberg")
    equivalence = statistics.adjusted([one.p_equivalence for one in judged], "benjamini-hochberg")
    return [_finding(*found, analysis.alpha) for found in zip(tables, judged, p, equivalence, strict=True)]


class _Table(NamedTuple):
    """Sums of differences [group, seed] of one family on one metric, and the items [group] they are of."""

    series: Series
    metric: Metric
    reference: str
    family: str
    seeds: list[str]
    absent: list[str]
    sums: Floats
    counts: Floats
    missing: int

    def crossed(self, *, binary: bool = False) -> Crossed | None:
        """The mean and its variances; null with fewer than two groups."""
        return crossed(self.sums, self.counts, binary=binary) if len(self.counts) > 1 else None


class _Judged(NamedTuple):
    """What one table says; null where there is too little of it, or no direction to judge by."""

    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_equivalence: float | None = None


def _table(
    series: Series,
    metric: Metric,
    values: pd.DataFrame,
    groups: NDArray[np.str_],
    reference: str,
    family: Sequence[str],
) -> _Table:
    seeds = [name for name in family if name in values]
    absent = [name for name in family if name not in values]
    differences = values[seeds].to_numpy() - values[[reference]].to_numpy()
    complete = ~np.isnan(differences).any(1)
    columns = [cluster_sums(column, groups[complete]) for column in differences[complete].T]
    sums, counts = np.stack([one for one, _ in columns], axis=1), columns[0][1]
    missing = int((~complete).sum())
    return _Table(series, metric, reference, family[0], seeds, absent, sums, counts, missing)


def _judge(table: _Table, alpha: float) -> _Judged:
    binary, margin = table.metric.kind == "binary", table.metric.margin
    found = table.crossed(binary=binary)
    if found is None:
        return _Judged()
    mean, error = found.mean, found.error
    if error <= 1e-12 * abs(mean):
        # Nothing varies: as `statistics.equivalence_tests` has it, few groups that agree show little of others.
        inside = 2.0 ** (1 - len(table.counts))
        half, p, equivalence = 0.0, None if mean else 1.0, inside if abs(mean) < margin else 1.0
    else:
        half = found.quantile(alpha / 2) * error
        p, equivalence = 2 * found.tail(abs(mean) / error), found.tail((margin - abs(mean)) / error)
    low, high = mean - half, mean + half
    if binary:
        low, high = max(-1.0, low), min(1.0, high)
    if table.metric.higher_is_better is None:
        return _Judged(low, high)
    return _Judged(low, high, p, equivalence)


def _finding(
    table: _Table, judged: _Judged, p_adjusted: float | None, equivalence: float | None, alpha: float
) -> ReplicatedFinding:
    explainer, dataset, scorer, name = table.series
    metric, n, found = table.metric, int(table.counts.sum()), table.crossed()
    estimate = float(table.sums.sum() / n / len(table.seeds)) if n else None
    limit = found.seed_sd_limit(alpha) if found else None
    if limit is not None and metric.kind == "binary":
        limit = min(limit, 1.0)  # differences lie between -1 and 1
    conclusion = None
    if estimate is not None and metric.higher_is_better is not None:
        conclusion = verdict(estimate, metric.higher_is_better, p_adjusted, equivalence, alpha)
    return ReplicatedFinding(
        variant=table.family, reference=table.reference, explainer=explainer, dataset=dataset, scorer=scorer,
        metric=name, kind=metric.kind, higher_is_better=metric.higher_is_better, unit=metric.unit,
        seeds=len(table.seeds), n=n, n_missing=table.missing, groups=len(table.counts),
        estimate=estimate, ci_low=judged.low, ci_high=judged.high,
        seed_sd=found.seed_sd if found else None,
        seed_sd_high=limit,
        group_sd=found.group_sd if found else None,
        residual_sd=found.residual_sd if found else None,
        note=_note(table, found),
        p=judged.p, p_adjusted=p_adjusted, margin=metric.margin, p_equivalence=judged.p_equivalence,
        p_equivalence_adjusted=equivalence, verdict=conclusion,
    )  # fmt: skip


def _note(table: _Table, found: Crossed | None) -> str:
    """Say what a reader of the numbers has to know about them."""
    notes = []
    if table.absent:
        notes.append(f"Not measured: {', '.join(table.absent)}.")
    if len(table.seeds) < 3:
        notes.append("Two seeds say little about others: use three at least.")
    if found is not None and found.seed_sd == 0:
        notes.append(
            "Seeds differ no more than items alone would make them differ, so their own part is put at 0; "
            f"{len(table.seeds)} seeds cannot show that it is."
        )
    return " ".join(notes)
