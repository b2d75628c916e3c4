"""Every number of every finding, one line each: what the verdicts rest on, for those who check them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from quantxai.records import Finding, ReplicatedFinding
from quantxai.report.anchors import items_anchor, result_anchor
from quantxai.report.headlines import Row
from quantxai.report.text import (
    SYMBOLS,
    change,
    detectable,
    estimate,
    interval,
    level,
    metric_label,
    p_value,
    significant,
    width_places,
)

__all__ = ["COLUMNS", "REPLICATED_COLUMNS", "Line", "contrast_lines", "lines", "replicated_lines"]

COLUMNS = (
    "items",
    "missing",
    "groups",
    "effect size",
    "Cliff's delta",
    "test",
    "p",
    "adjusted p",
    "corrected by",
    "p of ranks",
    "p of equivalence",
    "adjusted",
    "flipped",
    "detectable",
    "would settle it",
    "change if missing were worst",
)
"""Of every finding beside its change, interval and verdict."""
REPLICATED_COLUMNS = (
    "seeds",
    "items",
    "missing",
    "groups",
    "spread of seeds (SD)",
    "of groups (SD)",
    "rest (SD)",
    "p",
    "adjusted p",
    "p of equivalence",
    "adjusted",
)
_DASH = "\N{EN DASH}"
_TESTS = {"mcnemar-exact": "McNemar", "sign-flip-permutation": "sign flips", "none": _DASH}
_CORRECTIONS = {"holm": "Holm", "bonferroni": "Bonferroni", "benjamini-hochberg": "Benjamini-Hochberg"}


@dataclass(frozen=True)
class Line:
    """One finding.

    Attributes:
        metric: its name for reading.
        where: explainer and data set.
        variant: its name.
        reference: what it is compared with.
        confirmatory: whether the analysis names it.
        change: estimate and interval.
        verdict: symbol and word.
        cells: the other numbers, in the order of `COLUMNS`.
        note: what to know about them; often empty.
        anchor: its id, where no other place on the page shows it.
        items: where the items behind it are; empty where that is no one place.
    """

    metric: str
    where: str
    variant: str
    reference: str
    confirmatory: bool
    change: tuple[str, str]
    verdict: tuple[str, str]
    cells: tuple[str, ...]
    note: str = ""
    anchor: str = ""
    items: str = ""


def lines(rows: Sequence[Row], elsewhere: Collection[str], parent: str) -> list[Line]:
    """Return a line for every finding of the rows, in their order.

    Args:
        rows: outcomes of one explainer on one data set.
        elsewhere: variants whose findings have a cell among the results.
        parent: the variant they are compared with.
    """
    found = [finding for row in rows for finding in row.findings.values()]
    return [
        replace(_line(f, parent), anchor="" if f.variant in elsewhere else result_anchor(f)) for f in found
    ]


def contrast_lines(findings: Sequence[Finding], parent: str) -> list[Line]:
    """Return the findings that compare two variants, neither of them the parent."""
    return [_line(finding, parent) for finding in findings if finding.reference != parent]


def _line(f: Finding, parent: str) -> Line:
    cells = (
        f"{f.n:,}",
        f"{f.n_missing:,}",
        f"{f.groups:,}",
        _plain(f.effect_size),
        _plain(f.cliffs_delta),
        _TESTS.get(f.test, f.test),
        p_value(f.p),
        p_value(f.p_adjusted),
        f"{_CORRECTIONS.get(f.correction, 'nothing')} over {f.family:,}" if f.family else _DASH,
        p_value(f.p_rank),
        p_value(f.p_equivalence),
        p_value(f.p_equivalence_adjusted),
        level(f.flips, "proportion"),
        _DASH if f.minimum_detectable is None else detectable(f),
        _DASH if f.n_to_resolve is None else f"{f.n_to_resolve:,} items",
        _bounds(f),
    )
    return Line(
        metric_label(f.metric), f"{f.explainer} on {f.dataset}", f.variant, f.reference, f.confirmatory,
        (estimate(f), interval(f)), SYMBOLS[f.verdict], cells, items=items_anchor(f, parent) if f.n else "",
    )  # fmt: skip


def _bounds(f: Finding) -> str:
    """Return the worst cases either way; a dash where nothing is missing."""
    if not f.n_missing or f.bound_low is None or f.bound_high is None:
        return _DASH
    places = width_places(f.bound_high - f.bound_low)
    return " to ".join(change(end, f.unit, places) for end in (f.bound_low, f.bound_high))


def _plain(value: float | None) -> str:
    if value is None:
        return _DASH
    shown = f"{value:+.2f}"
    return shown.replace("-", "\N{MINUS SIGN}") if any(d in shown for d in "123456789") else "0.00"


def replicated_lines(findings: Sequence[ReplicatedFinding]) -> list[Line]:
    """Return a line for every comparison over calibration seeds; cells in the order of `REPLICATED_COLUMNS`."""
    return [_replicated(finding) for finding in findings]


def _replicated(f: ReplicatedFinding) -> Line:
    most = "" if f.seed_sd_high is None else f", at most {_deviation(f.seed_sd_high, f.unit)}"
    cells = (
        f"{f.seeds}",
        f"{f.n:,}",
        f"{f.n_missing:,}",
        f"{f.groups:,}",
        f"{_deviation(f.seed_sd, f.unit)}{most}",
        _deviation(f.group_sd, f.unit),
        _deviation(f.residual_sd, f.unit),
        p_value(f.p),
        p_value(f.p_adjusted),
        p_value(f.p_equivalence),
        p_value(f.p_equivalence_adjusted),
    )
    places = width_places(f.ci_high - f.ci_low) if f.ci_low is not None and f.ci_high is not None else None
    unit = "\N{NO-BREAK SPACE}pp" if f.unit == "proportion" and f.estimate is not None else ""
    ends = "no interval"
    if f.ci_low is not None and f.ci_high is not None:
        ends = f"[{change(f.ci_low, f.unit, places)}, {change(f.ci_high, f.unit, places)}]"
    return Line(
        metric_label(f.metric), f"{f.explainer} on {f.dataset}", f.variant, f.reference, False,
        (f"{change(f.estimate, f.unit, places)}{unit}", ends), SYMBOLS[f.verdict], cells, f.note,
    )  # fmt: skip


def _deviation(value: float | None, unit: str) -> str:
    if value is None:
        return _DASH
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}pp" if unit == "proportion" else significant(value, 2)
