"""Does a run show what a policy requires? `gate` is pure: the answer follows from the tables alone.

```
policy ─▶ outcomes (metric × variant × explainer × data set) ─▶ compare ─▶ pass, degraded,
                                                                            unresolved, not measured
```

An outcome passes when it is shown not to be worse by the margin (non-inferior): the end of the 1 - 2 alpha
interval on the side of harm stays inside, also with every missing value as harmful as any seen. All outcomes
have to pass, which is an intersection-union test: with every one tested at alpha, the chance that the
whole gate passes although one of them is worse by its margin or more is at most alpha, however many there are.
*Degraded* claims that some outcome got worse, so its p is corrected over the policy's outcomes (Holm).

References:
    Berger 1982, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24. Holm 1979,
    Scand. J. Stat. 6. Horowitz and Manski 2000, Nonparametric analysis of randomized experiments with missing
    covariate and outcome data, JASA 95. Julious 2004, Sample sizes for clinical trials with normal data,
    Stat. Med. 23.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import stats

from quantxai import conditions
from quantxai.analysis import Analysis
from quantxai.compare import compare
from quantxai.errors import ConfigError
from quantxai.manifest import Manifest
from quantxai.pairs import SERIES, series_of
from quantxai.policy import Asked, Part, Policy, expand
from quantxai.records import Finding, Metric, Record
from quantxai.statistics import MIN_BOOTSTRAP_CLUSTERS
from quantxai.store import Store

__all__ = ["EXIT_CODES", "Held", "Outcome", "gate", "gate_run", "worst"]

Held = Literal["degraded", "not measured", "unresolved", "pass"]
"""What may become of an outcome, the worst first."""
EXIT_CODES: dict[Held, int] = {"degraded": 10, "not measured": 12, "unresolved": 11, "pass": 0}

_POWER = 0.8


class Outcome(Record):
    """One metric of one variant, on one explainer's rows of one data set, held against the policy."""

    requirement: int = Field(description="Which [[require]] table asks for it, from 1.")
    metric: str = Field(description="scorer.metric")
    variant: str | None = Field(description="null where the run has no variant to ask about.")
    explainer: str | None = Field(description="null where the run plans no such scores.")
    dataset: str | None
    verdict: Held
    reason: str = Field(description="Why, and what would settle it.")
    unit: str
    higher_is_better: bool
    margin: float = Field(description="Largest loss that passes, in the metric's unit.")
    n: int = Field(0, description="Items with a value of both parent and variant.")
    n_missing: int = Field(0, description="Items that lack one.")
    groups: int = Field(0, description="Independent groups among the n items.")
    parent_mean: float | None = None
    variant_mean: float | None = None
    estimate: float | None = Field(None, description="Mean of variant minus parent over the n items.")
    ci_low: float | None = Field(None, description="1 - 2 alpha interval of the estimate, lower end.")
    ci_high: float | None = None
    worst: float | None = Field(
        None, description="The interval's end on the side of harm, missing values as harmful as any seen."
    )
    p_degraded: float | None = Field(
        None, description="p of no difference, corrected over the policy's outcomes."
    )
    n_to_pass: int | None = Field(
        None, description="For an unresolved one: about how many items would pass it, if it is as estimated."
    )


def gate(
    policy: Policy, manifest: Manifest, measurements: pd.DataFrame, absent: Mapping[Part, str]
) -> list[Outcome]:
    """Return what became of everything a policy asks for, in its order.

    Args:
        policy: what has to hold.
        manifest: the run's.
        measurements: the run's.
        absent: planned scores that are not there, or not all of them, and why.

    Raises:
        ConfigError: the policy names something the run does not have, or nothing that can be better or worse.
    """
    analysis = manifest.planned_analysis
    alpha = policy.alpha or analysis.alpha
    if alpha >= 0.25:  # half of the interval's own limit
        raise ConfigError(
            f"the run's alpha of {alpha:g} is too large for a gate. Give the policy one: alpha = 0.05."
        )
    asked = expand(policy, manifest)
    # The margin plays no part in intervals and p: one comparison serves all requirements.
    metrics = {
        key: m for key, m in manifest.metrics.items() if key in {(a.scorer, a.metric.name) for a in asked}
    }
    frame = _asked_for(measurements, asked, manifest.parent)
    settings = Analysis(
        alpha=2 * alpha,
        confirmatory=tuple(sorted(".".join(key) for key in metrics)),
        correction="holm",
        resamples=analysis.resamples,
    )

    def compared(frame: pd.DataFrame) -> dict[tuple[str, ...], Finding]:
        found = compare(frame, metrics, manifest.parent, settings, manifest.seed)
        return {(f.variant, f.explainer, f.dataset, f.scorer, f.metric): f for f in found}

    findings, filled = compared(frame), compared(_filled(frame, metrics, manifest.parent))
    outcomes = []
    for one in asked:
        why = _absence(one, absent, manifest.parent)
        if why or one.key not in findings or not findings[one.key].n:
            outcomes.append(_outcome(one, "not measured", why or _NO_VALUES, findings.get(one.key)))
        else:
            outcomes.append(_held(one, findings[one.key], filled.get(one.key, findings[one.key]), alpha))
    return outcomes


def gate_run(store: Store, policy: Policy) -> list[Outcome]:
    """Return what became of everything a policy asks of a stored run.

    Raises:
        ConfigError: the policy names something the run does not have.
        CorruptCell: what is stored does not match its checksum.
        NotComparable: a variant was computed under other conditions than the parent.
    """
    manifest = store.manifest
    variants = {manifest.parent, *(one.variant for one in expand(policy, manifest))}
    cells = [(variant, found) for variant, found in store.conditions() if variant in variants]
    conditions.check(cells, manifest.parent, manifest.planned_analysis.pool)
    return gate(policy, manifest, store.measurements(), _absent(store, manifest))


def worst(outcomes: Collection[Outcome]) -> Held:
    """Return the worst verdict, which decides the exit code."""
    return next(held for held in get_args(Held) if any(o.verdict == held for o in outcomes))


# What is there


def _absent(store: Store, manifest: Manifest) -> dict[Part, str]:
    """Return the planned scores that are not stored, and why."""
    why: dict[tuple[str, ...], str] = {}
    for failure in store.failures():
        cell = failure.cell
        names = (failure.variant,) if cell is None else (cell.variant, cell.explainer, cell.dataset)
        why[(*names, cell.scorer) if cell is not None and cell.scorer else names] = failure.message
    absent = {}
    for key in manifest.cells:
        part = Part(key.variant, key.explainer, key.dataset, key.scorer)
        if key.kind == "scores" and not store.has(key):
            reasons = [why[part[:length]] for length in (4, 3, 1) if part[:length] in why]
            absent[part] = (
                f"failed: {reasons[0]}" if reasons else "not computed yet: give the sweep command again"
            )
    return absent


def _asked_for(measurements: pd.DataFrame, asked: Collection[Asked], parent: str) -> pd.DataFrame:
    """Return the measurements asked for, and the parent's of the same."""
    keys = {one.key for one in asked} | {(parent, *one.key[1:]) for one in asked}
    columns = zip(*(measurements[name] for name in ["variant", *SERIES]), strict=True)
    return measurements[np.fromiter((key in keys for key in columns), bool, len(measurements))]


def _filled(frame: pd.DataFrame, metrics: Mapping[tuple[str, str], Metric], parent: str) -> pd.DataFrame:
    """Return the series that lack values, filled in as harmful as any seen: bad ones, the parent's good."""
    parts = [frame.iloc[:0]]
    for series, metric, values, groups in series_of(frame, metrics):
        seen = values.to_numpy()[values.notna().to_numpy()]
        if not seen.size or seen.size == values.size:
            continue
        low, high = (0.0, 1.0) if metric.kind == "binary" else (float(seen.min()), float(seen.max()))
        bad, good = (low, high) if metric.higher_is_better else (high, low)
        names = dict(zip(SERIES, series, strict=True))
        for variant, column in values.items():
            filled = column.fillna(good if variant == parent else bad).to_numpy()
            rows = pd.DataFrame({"item": values.index, "group": groups, "value": filled})
            parts.append(rows.assign(variant=variant, **names)[list(frame.columns)])
    return pd.concat(parts)


_NO_VALUES = (
    "no item has a value for both the parent and the variant. If the metric does not apply to this explainer "
    "or data set, name those that are meant in the policy"
)


def _absence(one: Asked, absent: Mapping[Part, str], parent: str) -> str:
    if one.variant is None:
        return "the run has no quantized variant"
    if not one.planned:
        return f"the run plans no scores of '{one.scorer}' there"
    own, parents = absent.get(one.part), absent.get(one.part._replace(variant=parent))
    return own or (f"the parent's are incomplete: {parents}" if parents else "")


# What it means


def _held(one: Asked, found: Finding, filled: Finding, alpha: float) -> Outcome:
    """Judge a finding; `filled` is the same with missing values filled in."""
    margin, sign = one.metric.margin, 1 if one.metric.higher_is_better else -1
    end, worst_end = _harm(found, sign), _harm(filled, sign)
    if end is None or worst_end is None or found.estimate is None:
        return _outcome(one, "unresolved", f"{_groups(found)}, and one gives no interval", found)
    inside, enough = sign * end > -margin, found.groups >= MIN_BOOTSTRAP_CLUSTERS
    needed = None
    if inside and enough and sign * worst_end > -margin:
        verdict: Held = "pass"
        why = "shown better" if sign * worst_end > 0 else f"shown no worse than {worst_end:+.3g}"
    elif (
        not inside and sign * found.estimate < 0 and found.p_adjusted is not None and found.p_adjusted < alpha
    ):
        verdict = "degraded"
        why = "worse beyond chance"
    elif not enough:
        verdict = "unresolved"
        why = f"{_groups(found)}; a pass takes {MIN_BOOTSTRAP_CLUSTERS}"
    elif inside:
        verdict = "unresolved"
        why = (
            f"{found.n_missing} of {found.n + found.n_missing} items have no value: if these are as bad as any seen, "
            f"the difference could be {worst_end:+.3g}"
        )
    else:
        verdict, needed = "unresolved", _n_to_pass(found, sign * found.estimate, margin, alpha)
        why = (
            f"about {needed:,} items would pass it, if the difference is as estimated"
            if needed
            else "the estimate is itself beyond the margin, so that more items are unlikely to pass it"
        )
    return _outcome(one, verdict, why, found, worst_end, needed)


def _harm(found: Finding, sign: int) -> float | None:
    """Return the interval's end on the side of harm."""
    return found.ci_low if sign > 0 else found.ci_high


def _groups(found: Finding) -> str:
    return f"only {found.groups} independent group{'' if found.groups == 1 else 's'} of items"


def _n_to_pass(found: Finding, gain: float, margin: float, alpha: float) -> int | None:
    """Return about how many items show with 80 % power that the loss is below the margin.

    n ((t(1 - alpha) + t(0.8)) error / (margin + gain))^2 (Julious 2004, non-inferiority), the error
    being half the interval over t(1 - alpha). None where the estimate is no smaller loss than the margin.
    """
    if margin + gain <= 0 or found.ci_low is None or found.ci_high is None:
        return None
    tail = stats.t.ppf(1 - alpha, found.groups - 1)
    error = (found.ci_high - found.ci_low) / 2 / tail
    n = float(found.n * ((tail + stats.t.ppf(_POWER, found.groups - 1)) * error / (margin + gain)) ** 2)
    return max(found.n + 1, math.ceil(n))


def _outcome(
    one: Asked,
    verdict: Held,
    reason: str,
    found: Finding | None,
    worst_end: float | None = None,
    needed: int | None = None,
) -> Outcome:
    seen = {} if found is None else {
        "n": found.n, "n_missing": found.n_missing, "groups": found.groups, "parent_mean": found.reference_mean,
        "variant_mean": found.variant_mean, "estimate": found.estimate, "ci_low": found.ci_low,
        "ci_high": found.ci_high, "p_degraded": found.p_adjusted,
    }  # fmt: skip
    return Outcome(
        requirement=one.requirement, metric=f"{one.scorer}.{one.metric.name}", variant=one.variant,
        explainer=one.explainer, dataset=one.dataset, verdict=verdict, reason=reason, unit=one.metric.unit,
        higher_is_better=bool(one.metric.higher_is_better), margin=one.metric.margin, worst=worst_end,
        n_to_pass=needed, **seen,
    )  # fmt: skip
