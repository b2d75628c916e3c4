"""The study's tables: every number of every finding, agreement, order effects, sensitivity to exclusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantxai.report.numbers import Line
from quantxai.report.text import (
    SYMBOLS,
    change,
    count,
    estimate,
    interval,
    level,
    listing,
    metric_label,
    p_value,
)
from userstudy.analysis.results import Agreement, IntraRater, OrderEffect, RatingFinding, StudyAnalysis
from userstudy.report.spoken import as_finding, unit

__all__ = [
    "NUMBERS",
    "Changed",
    "agreement_rows",
    "intra_rows",
    "number_lines",
    "order_rows",
    "order_sentence",
    "ranged",
    "sensitivity",
]

NUMBERS = (
    "answers",
    "participants",
    "items",
    "groups",
    "mean of the reference",
    "mean of the variant",
    "standard error",
    "p",
    "adjusted p",
    "corrected by",
    "p of equivalence",
    "adjusted",
    "detectable",
    "Cliff's delta",
    "d of participants",
    "log odds ratio",
    "p of ordinal regression",
    "log odds by GEE",
    "p of GEE",
    "p of signed ranks",
    "adjusted (Holm)",
    "mixed model",
    "p of mixed model",
)
"""Of every finding beside its change, interval and verdict."""
_DASH = "\N{EN DASH}"
_CORRECTIONS = {"holm": "Holm", "bonferroni": "Bonferroni", "benjamini-hochberg": "Benjamini-Hochberg"}


def number_lines(analysis: StudyAnalysis) -> list[Line]:
    """Return a line for every finding."""
    return [_line(found) for found in analysis.findings]


def _line(found: RatingFinding) -> Line:
    finding, shares = as_finding(found), unit(found)
    cells = (
        f"{found.n:,}",
        f"{found.participants:,}",
        f"{found.items:,}",
        f"{found.groups:,}",
        level(found.reference_mean, shares),
        level(found.variant_mean, shares),
        _positive(found.error, shares),
        p_value(found.p),
        p_value(found.p_adjusted),
        f"{_CORRECTIONS.get(found.correction, 'nothing')} over {found.family:,}",
        p_value(found.p_equivalence),
        p_value(found.p_equivalence_adjusted),
        f"±{_positive(found.minimum_detectable, shares)}" if found.minimum_detectable is not None else _DASH,
        _signed(found.cliffs_delta),
        _signed(found.d_z),
        ranged(found.log_odds, found.log_odds_low, found.log_odds_high),
        p_value(found.p_ordinal),
        _signed(found.gee_log_odds),
        p_value(found.p_gee),
        p_value(found.p_wilcoxon),
        p_value(found.p_wilcoxon_adjusted),
        ranged(found.mixed_estimate, found.mixed_low, found.mixed_high, shares),
        p_value(found.p_mixed),
    )
    return Line(
        metric_label(found.question), "", found.variant, found.reference, found.confirmatory,
        (estimate(finding), interval(finding)), SYMBOLS[found.verdict], cells, " ".join(found.notes),
    )  # fmt: skip


def _positive(value: float | None, shares: str) -> str:
    return change(value, shares, None if shares == "proportion" else 2).lstrip("+")


def _signed(value: float | None, shares: str = "") -> str:
    return change(value, shares, None if shares == "proportion" else 2)


def ranged(
    value: float | None, low: float | None, high: float | None, shares: str = "", *, sign: bool = True
) -> str:
    """Return a value with its interval, `+0.41 [+0.12, +0.70]`; a dash without the value.

    Args:
        value: what was found.
        low: lower end of its interval.
        high: upper end.
        shares: the unit, `proportion` for shares.
        sign: whether positive numbers have one: differences do.
    """
    if value is None:
        return _DASH
    shown = [_signed(one, shares) for one in (value, low, high) if one is not None]
    shown = shown if sign else [one.lstrip("+") for one in shown]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0]


def agreement_rows(found: Sequence[Agreement]) -> list[tuple[str, ...]]:
    """Return for each question: its name, level, alpha with interval, stimuli, participants, answers, notes."""
    rows: list[tuple[str, ...]] = []
    for one in found:
        scale = f"{one.points}-point scale" if one.points else one.scale
        name = metric_label(one.question) if one.question else f"all questions ({scale})"
        numbers = (f"{one.units:,}", f"{one.participants:,}", f"{one.n:,}", " ".join(one.notes))
        rows.append((name, one.level, ranged(one.alpha, one.ci_low, one.ci_high, sign=False), *numbers))
    return rows


def intra_rows(found: Sequence[IntraRater]) -> list[tuple[str, ...]]:
    """Return for each question: its name, equal answers, kappa, alpha, mean change, pages, participants, notes."""
    return [
        (
            metric_label(one.question),
            _share(one.exact, one.exact_low, one.exact_high),
            ranged(one.kappa, one.kappa_low, one.kappa_high, sign=False),
            ranged(one.alpha, one.alpha_low, one.alpha_high, sign=False),
            _signed(one.mean_change),
            f"{one.pairs:,}",
            f"{one.participants:,}",
            " ".join(one.notes),
        )
        for one in found
    ]


def _share(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return _DASH
    shown = level(value, "proportion")
    if low is None or high is None:
        return shown
    return f"{shown} [{level(low, 'proportion')}, {level(high, 'proportion')}]"


def order_rows(found: Sequence[OrderEffect]) -> list[tuple[str, ...]]:
    """Return for each effect: what of, of which variant, change a page, adjusted p, participants, answers, notes."""
    return [
        (
            metric_label(one.question) if one.question else "time on a page",
            one.variant or "all",
            f"{ranged(one.estimate, one.ci_low, one.ci_high)} {one.unit}",
            p_value(one.p_adjusted),
            f"{one.participants:,}",
            f"{one.n:,}",
            " ".join(one.notes),
        )
        for one in found
    ]


def order_sentence(found: Sequence[OrderEffect], alpha: float) -> str:
    """Say which changes from page to page are beyond chance."""
    sure = [one for one in found if one.p_adjusted is not None and one.p_adjusted < alpha]
    if not sure:
        return f"None of {count(len(found), 'change')} looked at is beyond chance."
    told = []
    for one in sure:
        rises = "rise" if (one.estimate or 0) > 0 else "fall"
        what = f"ratings of {metric_label(one.question)}" if one.question else "times on a page"
        told.append(f"{what} {rises}{f' for {one.variant} against the reference' if one.variant else ''}")
    return f"Of {count(len(found), 'change')} looked at, {len(sure)} beyond chance: {listing(told)}."


@dataclass(frozen=True)
class Changed:
    """A comparison with and without the excluded participants: change, interval and verdict of both."""

    question: str
    variant: str
    kept: tuple[str, str]
    everybody: tuple[str, str]
    differs: bool


def sensitivity(analysis: StudyAnalysis) -> list[Changed]:
    """Return every comparison with and without exclusions; empty where nobody is excluded."""
    before = {(f.question, f.variant): f for f in analysis.findings_without_exclusions}
    found = []
    for one in analysis.findings:
        other = before.get((one.question, one.variant))
        if other is not None:
            differs = one.verdict != other.verdict
            found.append(Changed(metric_label(one.question), one.variant, _told(one), _told(other), differs))
    return found


def _told(found: RatingFinding) -> tuple[str, str]:
    finding = as_finding(found)
    if found.estimate is None:
        return "no data", ""
    return f"{estimate(finding)} {interval(finding)}", listing([" ".join(SYMBOLS[found.verdict])])
