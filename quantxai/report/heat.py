"""The run at a glance: outcomes by variants, how far each moved in margins, and what that means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantxai.records import Finding
from quantxai.report.anchors import result_anchor
from quantxai.report.headlines import Row
from quantxai.report.phrases import phrase
from quantxai.report.results import Group
from quantxai.report.text import SYMBOLS, change, estimate, interval

__all__ = ["HeatCell", "HeatLine", "HeatMap", "heat_map", "tone"]

_DEEPEST = 3
"""Margins from which on the colour gets no deeper."""


@dataclass(frozen=True)
class HeatCell:
    """One finding.

    Attributes:
        tone: worse-3 to worse-1, even, better-1 to better-3: the change in margins, in the direction of quality.
        symbol: of the verdict.
        word: the verdict.
        change: the estimate, short.
        told: the same with its interval, for readers who point at it.
        anchor: where its numbers are.
    """

    tone: str
    symbol: str
    word: str
    change: str
    told: str
    anchor: str


@dataclass(frozen=True)
class HeatLine:
    """One outcome of one explainer on one data set.

    Attributes:
        noun: what it is called.
        place: the explainer and data set it is from.
        row: its description.
        cells: by variant; null where it was not measured.
    """

    noun: str
    place: str
    row: Row
    cells: dict[str, HeatCell | None]


@dataclass(frozen=True)
class HeatMap:
    """Outcomes by variants.

    Attributes:
        variants: the columns.
        controls: those of them that are controls.
        parts: lines by their part: confirmatory, then exploratory.
    """

    variants: list[str]
    controls: list[str]
    parts: dict[str, list[HeatLine]]


def heat_map(groups: Sequence[Group], variants: Sequence[str], controls: Sequence[str]) -> HeatMap:
    """Return the confirmatory outcomes, then each group's headlines that have a direction.

    Args:
        groups: what was compared.
        variants: the quantized ones.
        controls: those shown after them: what chance alone may change.
    """
    names = [*variants, *controls]
    parts: dict[str, list[HeatLine]] = {"confirmatory": [], "exploratory": []}
    for group in groups:
        for row in group.headlines:
            if row.metric.higher_is_better is not None:
                part = "confirmatory" if row.confirmatory else "exploratory"
                parts[part].append(_line(row, names))
    shown = [
        name
        for name in names
        if any(line.cells[name] is not None for lines in parts.values() for line in lines)
    ]
    return HeatMap(shown, [n for n in controls if n in shown], {k: v for k, v in parts.items() if v})


def _line(row: Row, names: Sequence[str]) -> HeatLine:
    first = next(iter(row.findings.values()))
    cells = {name: _cell(row.findings, name) for name in names}
    return HeatLine(phrase(first).noun, f"{first.explainer} on {first.dataset}", row, cells)


def _cell(findings: Mapping[str, Finding], name: str) -> HeatCell | None:
    finding = findings.get(name)
    if finding is None or finding.estimate is None:
        return None
    symbol, word = SYMBOLS[finding.verdict]
    short = change(finding.estimate, finding.unit, 0 if finding.unit == "proportion" else 2)
    told = f"{name}: {estimate(finding)} {interval(finding)}, {word}"
    return HeatCell(tone(finding), symbol, word, short, told, result_anchor(finding))


def tone(finding: Finding) -> str:
    """Return how far an outcome moved in the direction of quality, in margins: `worse-2`.

    Rounded to whole margins away from none: within half a margin there is no colour.
    """
    moved = (finding.estimate or 0) / finding.margin * (1 if finding.higher_is_better else -1)
    steps = min(int(abs(moved) + 0.5), _DEEPEST)
    return "even" if not steps else f"{'better' if moved > 0 else 'worse'}-{steps}"
