"""Every variant against its reference, paired by item: pure, and the same whatever the order of rows.

```
measurements ─▶ pairs ─▶ batches of pairs that share their groups ─▶ interval, tests
             (one per variant,                                            │
              data set and metric)      corrected within its family ◀─────┘─▶ verdicts: findings
```
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from quantxai import statistics
from quantxai.analysis import Analysis, confirmatory_outcomes, with_margins
from quantxai.pairs import Pair, make_pairs
from quantxai.records import Correction, Finding, Metric, Verdict, digest

__all__ = ["compare", "verdict"]


@dataclass
class _Result:
    """What was found out about one pair."""

    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_rank: float | None = None
    p_equivalence: float | None = None
    p_adjusted: float | None = None
    p_equivalence_adjusted: float | None = None


@dataclass(frozen=True)
class _Family:
    """Comparisons that are corrected together.

    Attributes:
        members: positions of their pairs.
        correction: how.
        confirmatory: whether the analysis names them.
    """

    members: list[int]
    correction: Correction
    confirmatory: bool = False

    def level(self, results: Sequence[_Result], alpha: float) -> float:
        """The level at which one more comparison would be found, those found so far staying as they are."""
        size = max(len(self.members), 1)
        adjusted = [results[i].p_adjusted for i in self.members]
        found = sum(p is not None and p < alpha for p in adjusted)
        steps: dict[Correction, float] = {
            "none": 1.0,
            "bonferroni": 1 / size,
            "holm": 1 / max(size - found, 1),
            "benjamini-hochberg": min(found + 1, size) / size,
        }
        return alpha * steps[self.correction]


def compare(
    measurements: pd.DataFrame,
    metrics: Mapping[tuple[str, str], Metric],
    parent: str = "full",
    analysis: Analysis | None = None,
    seed: int = 0,
    apart: Sequence[Collection[str]] = (),
) -> list[Finding]:
    """Compare every variant with the parent, and the contrasts, on every metric of every data set.

    - The interval is the 1 - alpha cluster bootstrap of `statistics.bootstrap_intervals`.
    - A binary metric on independent items is tested by exact McNemar, everything else by flipping the
      signs of whole groups.
    - Families are corrected each by itself: the confirmatory outcomes by the analysis's correction, all others
      by Benjamini-Hochberg, and so what is set `apart`. Equivalence is corrected likewise.
    - *equivalent*: the corrected p of two one-sided tests against the margin
      (`statistics.equivalence_tests`, and of continuous outcomes `Bootstrap.equivalence`) is below alpha,
      even where the small change is significant; otherwise *degraded* or *improved*: corrected p below
      alpha, by direction; otherwise *unresolved*.

    Sign patterns are drawn often enough that a whole family can still reach alpha.

    Args:
        measurements: `Measurement.COLUMNS`, one row per variant, data set, metric and item.
        metrics: what each metric is, by scorer and name.
        parent: the variant all others are compared with.
        analysis: level, margins, confirmatory outcomes and contrasts; the defaults where left out.
        seed: together with the names of the groups it decides every random number.
        apart: variants whose comparisons are corrected in families of their own: null controls, further seeds.

    Returns:
        Sorted by explainer, data set, metric in the order of `metrics`, and variant.

    Raises:
        InputError: an unknown metric, margin or confirmatory outcome, or an item measured twice.
    """
    analysis = analysis or Analysis()
    confirmatory = confirmatory_outcomes(analysis, metrics)
    metrics = with_margins(analysis, metrics)
    pairs = make_pairs(measurements, metrics, parent, analysis.contrasts)
    results = [_Result() for _ in pairs]
    families = _families(pairs, confirmatory, analysis.correction, apart)
    largest = max((len(family.members) for family in families), default=0)
    patterns = max(analysis.resamples, int(np.ceil(10 * largest / analysis.alpha)))
    for batch in _batches(pairs):
        chosen = [pairs[index] for index in batch]
        _judge(chosen, [results[index] for index in batch], analysis, patterns, seed)
    for family in families:
        own = [results[i] for i in family.members]
        for result, p in zip(own, statistics.adjusted([r.p for r in own], family.correction), strict=True):
            result.p_adjusted = p
        equivalent = statistics.adjusted([r.p_equivalence for r in own], family.correction)
        for result, p in zip(own, equivalent, strict=True):
            result.p_equivalence_adjusted = p
    of = {index: family for family in families for index in family.members}
    levels = {id(family): family.level(results, analysis.alpha) for family in families}
    return [
        _finding(pair, result, of.get(index), levels.get(id(of.get(index)), analysis.alpha), analysis.alpha)
        for index, (pair, result) in enumerate(zip(pairs, results, strict=True))
    ]


def _families(
    pairs: Sequence[Pair],
    confirmatory: Collection[tuple[str, str]],
    correction: Correction,
    apart: Sequence[Collection[str]],
) -> list[_Family]:
    named, others = _Family([], correction, confirmatory=True), _Family([], "benjamini-hochberg")
    alone = [_Family([], "benjamini-hochberg") for _ in apart]
    for index, pair in enumerate(pairs):
        if pair.test == "none":
            continue
        own = [
            family
            for family, names in zip(alone, apart, strict=True)
            if {pair.variant, pair.reference} & {*names}
        ]
        family = named if pair.series[2:] in confirmatory else others
        (own[0] if own else family).members.append(index)
    return [named, others, *alone]


def _batches(pairs: Sequence[Pair]) -> Iterable[list[int]]:
    """Return the positions of pairs of the same kind over the same groups: they share random numbers."""
    batches: dict[tuple[bool, tuple[str, ...]], list[int]] = {}
    for index, pair in enumerate(pairs):
        if len(pair.before):
            batches.setdefault((pair.binary, pair.all_groups), []).append(index)
    return batches.values()


def _judge(pairs: list[Pair], results: list[_Result], analysis: Analysis, patterns: int, seed: int) -> None:
    """Fill in intervals and p-values of pairs over the same groups."""
    names = np.array(pairs[0].all_groups)
    columns = [statistics.cluster_sums(pair.differences, pair.groups, names) for pair in pairs]
    sums, counts = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    binary = pairs[0].binary
    rng = np.random.default_rng(int(digest([seed, *pairs[0].all_groups])[:16], 16))
    bootstrap = statistics.Bootstrap(sums, counts, analysis.resamples, rng, binary=binary)
    (ends,) = bootstrap.intervals([1 - analysis.alpha])
    margins = [pair.metric.margin for pair in pairs]
    equivalence = statistics.equivalence_tests(sums, counts, margins, binary=binary)
    if not binary:
        # Student's t takes skewed differences for equivalent too often; the bootstrap sees the skewness.
        equivalence = np.fmax(equivalence, bootstrap.equivalence(margins))
    for column, (pair, result) in enumerate(zip(pairs, results, strict=True)):
        if not np.isnan(ends[:, column]).any():
            result.low, result.high = ends[:, column].tolist()
        if pair.test == "mcnemar-exact":
            result.p = statistics.mcnemar_exact(pair.before, pair.after)
        if pair.test != "none" and not np.isnan(equivalence[column]):
            result.p_equivalence = float(equivalence[column])
    flipped = [column for column, pair in enumerate(pairs) if pair.test == "sign-flip-permutation"]
    if not flipped:
        return
    tested = sums[:, flipped]
    if not binary:
        ranked = [
            statistics.cluster_sums(statistics.signed_ranks(pairs[c].differences), pairs[c].groups, names)[0]
            for c in flipped
        ]
        tested = np.concatenate([tested, np.stack(ranked, axis=1)], axis=1)
    found = statistics.sign_flip_tests(tested, patterns, rng).tolist()
    for place, column in enumerate(flipped):
        results[column].p = found[place]
        if not binary:
            results[column].p_rank = found[place + len(flipped)]


def verdict(
    estimate: float, better: bool, p_adjusted: float | None, p_equivalence: float | None, alpha: float
) -> Verdict:
    """Return the verdict on a mean difference: see `compare`.

    Args:
        estimate: the mean difference.
        better: whether more of the metric is better.
        p_adjusted: corrected p of no difference.
        p_equivalence: corrected p of equivalence.
        alpha: what both are held against.
    """
    if p_equivalence is not None and p_equivalence < alpha:
        return "equivalent"
    if p_adjusted is not None and p_adjusted < alpha:
        return "improved" if (estimate > 0) == better else "degraded"
    return "unresolved"


def _finding(pair: Pair, result: _Result, family: _Family | None, level: float, alpha: float) -> Finding:
    differences, n = pair.differences, len(pair.before)
    explainer, dataset, scorer, name = pair.series
    estimate = float(differences.mean()) if n else None
    judged, needed = None, None
    better = pair.metric.higher_is_better
    if estimate is not None and better is not None:
        judged = verdict(estimate, better, result.p_adjusted, result.p_equivalence_adjusted, alpha)
    if judged == "unresolved" and family is not None and estimate is not None:
        error = statistics.standard_error(differences, pair.groups, binary=pair.binary)
        needed = statistics.n_to_resolve(error, pair.clusters - 1, estimate, pair.metric.margin, n, level)
        needed = _with_enough_groups(needed, pair, level)
    effect = estimate if pair.binary else statistics.paired_effect_size(differences)
    low, high = pair.bounds or (None, None)
    return Finding(
        variant=pair.variant, reference=pair.reference, explainer=explainer, dataset=dataset, scorer=scorer,
        metric=name, kind=pair.metric.kind, higher_is_better=better, unit=pair.metric.unit,
        n=n, n_missing=pair.missing, groups=pair.clusters,
        reference_mean=float(pair.before.mean()) if n else None,
        variant_mean=float(pair.after.mean()) if n else None,
        estimate=estimate, ci_low=result.low, ci_high=result.high, bound_low=low, bound_high=high,
        effect_size=effect, cliffs_delta=statistics.cliffs_delta(pair.before, pair.after),
        test=pair.test, p=result.p, p_adjusted=result.p_adjusted, p_rank=result.p_rank,
        margin=pair.metric.margin, p_equivalence=result.p_equivalence,
        p_equivalence_adjusted=result.p_equivalence_adjusted,
        confirmatory=family is not None and family.confirmatory,
        correction=family.correction if family else "none", family=len(family.members) if family else 0,
        minimum_detectable=statistics.minimum_detectable(
            differences, pair.groups, alpha, binary=pair.binary
        ),
        verdict=judged, n_to_resolve=needed, **_flips(pair, alpha),
    )  # fmt: skip


def _with_enough_groups(needed: int | None, pair: Pair, level: float) -> int | None:
    """Raise the number of items to where flipping signs can reach the level at all.

    The smallest p of k groups is 2^(1 - k).
    """
    if needed is None or pair.test != "sign-flip-permutation":
        return needed
    groups = math.floor(1 - math.log2(level)) + 1
    return max(needed, math.ceil(len(pair.before) * groups / pair.clusters))


def _flips(pair: Pair, alpha: float) -> dict[str, float | None]:
    """Return how many outcomes of a binary metric differ, as a share with its 1 - alpha interval."""
    n = len(pair.before)
    changed = int((pair.differences != 0).sum())
    interval = statistics.clopper_pearson(changed, n, 1 - alpha) if pair.binary else None
    if interval is None:
        return {"flips": None, "flips_low": None, "flips_high": None}
    return {"flips": changed / n, "flips_low": interval.low, "flips_high": interval.high}
