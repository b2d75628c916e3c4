"""Every variant against its parent, paired by item: pure, and the same whatever the order of rows.

```
measurements ─▶ pairs ─▶ batches of pairs that share their groups ─▶ interval, test
             (one per variant,                                            │
              data set and metric)          Holm over all that judge ◀────┘─▶ verdicts: findings
```
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai import statistics
from quantxai.errors import InputError, nearest
from quantxai.records import Finding, Measurement, Metric, Verdict, digest

__all__ = ["compare"]

Floats = NDArray[np.float64]

_SERIES = ["explainer", "dataset", "scorer", "metric"]


@dataclass(frozen=True)
class _Pair:
    """One variant and its parent on one metric of one data set, items in sorted order."""

    series: tuple[str, str, str, str]
    variant: str
    metric: Metric
    before: Floats
    after: Floats
    groups: NDArray[np.str_]
    all_groups: tuple[str, ...]
    missing: int

    @property
    def differences(self) -> Floats:
        return self.after - self.before

    @property
    def binary(self) -> bool:
        return self.metric.kind == "binary"

    @property
    def independent(self) -> bool:
        """Whether every item is a group of its own."""
        return len(np.unique(self.groups)) == len(self.groups)

    @property
    def test(self) -> str:
        if self.metric.higher_is_better is None or not len(self.before):
            return "none"
        return "mcnemar-exact" if self.binary and self.independent else "sign-flip-permutation"


@dataclass
class _Result:
    """What the batches found out about one pair."""

    low: float | None = None
    high: float | None = None
    inner_low: float | None = None
    inner_high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None


def compare(
    measurements: pd.DataFrame,
    metrics: Mapping[tuple[str, str], Metric],
    parent: str = "full",
    alpha: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    margins: Mapping[str, float] | None = None,
    controls: Collection[str] = (),
) -> list[Finding]:
    """Compare every variant with the parent on every metric of every data set.

    - The interval is the 1 - alpha cluster bootstrap of `statistics.bootstrap_intervals`.
    - A binary metric on independent items is tested by exact McNemar, everything else by flipping the
      signs of whole groups; Holm adjusts over all metrics that have a direction.
    - *equivalent*: the 1 - 2 alpha interval lies within the margin (two one-sided tests: Schuirmann
      1987, J. Pharmacokinet. Biopharm. 15), even where the small change is significant; otherwise
      *degraded* or *improved*: adjusted p below alpha, by direction; otherwise *unresolved*.

    Sign patterns are drawn often enough that Holm over the whole family can still reach alpha.

    Args:
        measurements: `Measurement.COLUMNS`, one row per variant, data set, metric and item.
        metrics: what each metric is, by scorer and name.
        parent: the variant all others are compared with.
        alpha: level of tests and intervals.
        resamples: bootstrap resamples, and least number of sign patterns.
        seed: together with the names of the groups it decides every random number.
        margins: largest change called equivalent, by "scorer.metric" or "metric"; overrides the metric's.
        controls: variants that are null controls: Holm adjusts over them apart from the others.

    Returns:
        Sorted by explainer, data set, metric in the order of `metrics`, and variant.

    Raises:
        InputError: an unknown metric or margin, or an item measured twice.
    """
    metrics = _with_margins(metrics, margins or {})
    pairs = _pairs(measurements, metrics, parent)
    results = [_Result() for _ in pairs]
    tested = [index for index, pair in enumerate(pairs) if pair.test != "none"]
    patterns = max(resamples, int(np.ceil(10 * len(tested) / alpha)))
    for batch in _batches(pairs):
        chosen = [pairs[index] for index in batch]
        _judge(chosen, [results[index] for index in batch], alpha, resamples, patterns, seed)
    sizes = [0 for _ in pairs]
    for family in (
        [i for i in tested if pairs[i].variant not in controls],
        [i for i in tested if pairs[i].variant in controls],
    ):
        adjusted = statistics.holm([results[i].p for i in family])
        for index, p in zip(family, adjusted, strict=True):
            results[index].p_adjusted, sizes[index] = p, len(family)
    return [
        _finding(pair, result, parent, alpha, size)
        for pair, result, size in zip(pairs, results, sizes, strict=True)
    ]


def _with_margins(
    metrics: Mapping[tuple[str, str], Metric], margins: Mapping[str, float]
) -> dict[tuple[str, str], Metric]:
    """Return the metrics with the margins given by name in place of their own."""
    names = {name for scorer, metric in metrics for name in (f"{scorer}.{metric}", metric)}
    for name in margins:
        if name not in names:
            raise InputError(
                f"margin for an unknown metric '{name}'.{nearest(name, names)} "
                f"Metrics: {', '.join(sorted(f'{scorer}.{metric}' for scorer, metric in metrics))}."
            )
    changed = {}
    for (scorer, name), metric in metrics.items():
        margin = margins.get(f"{scorer}.{name}", margins.get(name, metric.margin))
        changed[scorer, name] = metric.model_copy(update={"margin": margin})
    return changed


def _pairs(measurements: pd.DataFrame, metrics: Mapping[tuple[str, str], Metric], parent: str) -> list[_Pair]:
    """Return one pair per variant other than the parent, data set and metric, in a fixed order."""
    frame = measurements[list(Measurement.COLUMNS)]
    twice = frame.duplicated(["variant", *_SERIES, "item"])
    if twice.any():
        first = frame[twice].iloc[0]
        raise InputError(
            f"item '{first['item']}' of '{first['dataset']}' has two values of "
            f"{first['scorer']}.{first['metric']} for the variant '{first['variant']}'."
        )
    order = {key: place for place, key in enumerate(metrics)}
    pairs: list[_Pair] = []
    for series, part in frame.groupby(_SERIES, sort=True):
        scorer, name = series[2:]
        if (scorer, name) not in metrics:
            raise InputError(
                f"no description of the metric '{scorer}.{name}', of which there are measurements. "
                "Give it in `metrics`, or score the run again with the installed scorers."
            )
        pairs += _pairs_of(series, part, metrics[scorer, name], parent)
    return sorted(pairs, key=lambda pair: (*pair.series[:2], order[pair.series[2:]], pair.variant))


def _pairs_of(
    series: tuple[str, str, str, str], part: pd.DataFrame, metric: Metric, parent: str
) -> Iterable[_Pair]:
    values = part.pivot(index="item", columns="variant", values="value").astype(float)
    groups = part.drop_duplicates("item").set_index("item")["group"].reindex(values.index).to_numpy(str)
    names = tuple(np.unique(groups).tolist())
    before = values[parent].to_numpy() if parent in values else np.full(len(values), np.nan)
    for variant in values.columns:
        if variant == parent:
            continue
        after = values[variant].to_numpy()
        both = ~(np.isnan(before) | np.isnan(after))
        missing = int((~both).sum())
        yield _Pair(series, str(variant), metric, before[both], after[both], groups[both], names, missing)


def _batches(pairs: list[_Pair]) -> Iterable[list[int]]:
    """Return the positions of pairs of the same kind over the same groups: they share random numbers."""
    batches: dict[tuple[bool, tuple[str, ...]], list[int]] = {}
    for index, pair in enumerate(pairs):
        if len(pair.before):
            batches.setdefault((pair.binary, pair.all_groups), []).append(index)
    return batches.values()


def _judge(
    pairs: list[_Pair], results: list[_Result], alpha: float, resamples: int, patterns: int, seed: int
) -> None:
    """Fill in intervals and p-values of pairs over the same groups."""
    names = pairs[0].all_groups
    columns = [statistics.cluster_sums(pair.differences, pair.groups, names) for pair in pairs]
    sums, counts = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    rng = np.random.default_rng(int(digest([seed, *names])[:16], 16))
    levels = [1 - alpha, 1 - 2 * alpha]
    ends = statistics.bootstrap_intervals(sums, counts, resamples, rng, levels, binary=pairs[0].binary)
    for column, result in enumerate(results):
        if not np.isnan(ends[:, :, column]).any():
            (result.low, result.high), (result.inner_low, result.inner_high) = ends[:, :, column].tolist()
    flipped = [column for column, pair in enumerate(pairs) if pair.test == "sign-flip-permutation"]
    if flipped:
        found = statistics.sign_flip_tests(sums[:, flipped], patterns, rng)
        for column, p in zip(flipped, found.tolist(), strict=True):
            results[column].p = p
    for pair, result in zip(pairs, results, strict=True):
        if pair.test == "mcnemar-exact":
            result.p = statistics.mcnemar_exact(pair.before, pair.after)


def _verdict(pair: _Pair, result: _Result, estimate: float, alpha: float) -> Verdict:
    margin = pair.metric.margin
    if (
        result.inner_low is not None
        and result.inner_high is not None
        and -margin < result.inner_low
        and result.inner_high < margin
    ):
        return "equivalent"
    if result.p_adjusted is not None and result.p_adjusted < alpha:
        return "improved" if (estimate > 0) == pair.metric.higher_is_better else "degraded"
    return "unresolved"


def _finding(pair: _Pair, result: _Result, parent: str, alpha: float, family: int) -> Finding:
    differences, n = pair.differences, len(pair.before)
    explainer, dataset, scorer, name = pair.series
    estimate = float(differences.mean()) if n else None
    judged = estimate is not None and pair.metric.higher_is_better is not None
    verdict = _verdict(pair, result, estimate, alpha) if judged and estimate is not None else None
    detectable = statistics.minimum_detectable(differences, pair.groups, alpha, binary=pair.binary)
    fields: dict[str, Any] = {"n_to_resolve": None}
    if verdict == "unresolved":
        adjusted = statistics.minimum_detectable(
            differences, pair.groups, alpha / max(family, 1), binary=pair.binary
        )
        needed = statistics.n_to_resolve(detectable, pair.metric.margin, n, estimate or 0.0, adjusted)
        fields["n_to_resolve"] = _with_enough_groups(needed, pair, alpha, family)
    effect = estimate if pair.binary else statistics.paired_effect_size(differences)
    return Finding(
        variant=pair.variant, parent=parent, explainer=explainer, dataset=dataset, scorer=scorer, metric=name,
        kind=pair.metric.kind, higher_is_better=pair.metric.higher_is_better, unit=pair.metric.unit,
        n=n, n_missing=pair.missing, groups=len(np.unique(pair.groups)),
        parent_mean=float(pair.before.mean()) if n else None,
        variant_mean=float(pair.after.mean()) if n else None,
        estimate=estimate, ci_low=result.low, ci_high=result.high, effect_size=effect,
        test=pair.test, p=result.p, p_adjusted=result.p_adjusted, margin=pair.metric.margin,
        minimum_detectable=detectable, verdict=verdict, **_flips(pair), **fields,
    )  # fmt: skip


def _with_enough_groups(needed: int | None, pair: _Pair, alpha: float, family: int) -> int | None:
    """Raise the number of items to where flipping signs can reach alpha at all.

    The smallest p of k groups is 2^(1 - k); Holm may multiply it by the size of the family.
    """
    if needed is None or pair.test != "sign-flip-permutation":
        return needed
    groups = math.floor(1 + math.log2(family / alpha)) + 1
    return max(needed, math.ceil(len(pair.before) * groups / len(np.unique(pair.groups))))


def _flips(pair: _Pair) -> dict[str, float | None]:
    """Return how many outcomes of a binary metric differ, as a share with its interval."""
    n = len(pair.before)
    changed = int((pair.differences != 0).sum())
    interval = statistics.clopper_pearson(changed, n) if pair.binary else None
    if interval is None:
        return {"flips": None, "flips_low": None, "flips_high": None}
    return {"flips": changed / n, "flips_low": interval.low, "flips_high": interval.high}
