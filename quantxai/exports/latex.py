r"""Results as tables for a paper: booktabs, a row per metric, a column per variant.

The file is for `\input`; it needs booktabs and amssymb and compiles with any LaTeX. Confirmatory outcomes
have a table of their own, all others one per explainer and data set. Tables too wide for a page are split by
variants, too long ones by metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from quantxai.exports.results import Results
from quantxai.latex import latex_text
from quantxai.records import Finding, Verdict
from quantxai.report.text import estimate, interval, level, metric_label

__all__ = ["to_latex"]

_MOST_COLUMNS = 4
_MOST_ROWS = 20
_T = TypeVar("_T")

_SYMBOLS: dict[Verdict | None, str] = {
    "degraded": r"\qxdegraded",
    "improved": r"\qximproved",
    "equivalent": r"\qxequivalent",
    "unresolved": r"\qxunresolved",
    None: "",
}

_HEAD = r"""% Written by quantxai. For \input in a document with \usepackage{booktabs,amssymb}.
% The symbols of the verdicts can be redefined before it is read.
\providecommand{\qxdegraded}{$\times$}
\providecommand{\qximproved}{\checkmark}
\providecommand{\qxequivalent}{$=$}
\providecommand{\qxunresolved}{?}
% Change, verdict and interval.
\providecommand{\qxcell}[3]{\begin{tabular}[c]{@{}c@{}}#1\,#2\\[-2pt]{\scriptsize #3}\end{tabular}}
% A metric with its unit and direction, and what stands below.
\providecommand{\qxmetric}[2]{\begin{tabular}[c]{@{}l@{}}#1\\[-2pt]{\scriptsize #2}\end{tabular}}
"""


@dataclass(frozen=True)
class _Row:
    """One metric of one explainer on one data set, by variant and reference."""

    place: str
    findings: dict[tuple[str, str], Finding]

    @property
    def first(self) -> Finding:
        return next(iter(self.findings.values()))


def to_latex(results: Results) -> str:
    """Return the tables; a comment alone where nothing has been compared."""
    rows = _rows(results.findings)
    asked = [row for row in rows if row.first.confirmatory]
    blocks = [("Confirmatory outcomes", "confirmatory", asked)] if asked else []
    others: dict[str, list[_Row]] = {}
    for row in rows:
        if not row.first.confirmatory:
            others.setdefault(row.place, []).append(row)
    blocks += [(f"Exploratory outcomes of {place}", place, part) for place, part in others.items()]
    tables = [table for block in blocks for table in _tables(results, *block)]
    note = "" if tables else "% Nothing has been compared yet.\n"
    return "\n".join([_HEAD + f"% {_comment(results.plan.sentence)}\n" + note, *tables])


def _rows(findings: Sequence[Finding]) -> list[_Row]:
    rows: dict[tuple[str, str, bool], _Row] = {}
    for finding in findings:
        place = f"{finding.explainer} on {finding.dataset}"
        row = rows.setdefault((place, finding.outcome, finding.confirmatory), _Row(place, {}))
        row.findings[finding.variant, finding.reference] = finding
    return list(rows.values())


def _tables(results: Results, title: str, label: str, rows: list[_Row]) -> Iterator[str]:
    present = {pair for row in rows for pair in row.findings}
    order = [(name, results.manifest.parent) for name in [*results.variants, *results.controls]]
    columns = [pair for pair in order if pair in present] + sorted(present - set(order))
    parts = [
        (part, chosen) for part in _chunks(rows, _MOST_ROWS) for chosen in _chunks(columns, _MOST_COLUMNS)
    ]
    for number, (part, chosen) in enumerate(parts, 1):
        of = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        ending = f"-{number}" if len(parts) > 1 else ""
        yield _table(results, f"{title}{of}", f"tab:quantxai-{_slug(label)}{ending}", part, chosen)


def _table(
    results: Results, title: str, label: str, rows: Sequence[_Row], columns: Sequence[tuple[str, str]]
) -> str:
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(title)}: {_caption(results, columns)}}}\smallskip",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}lrr{'c' * len(columns)}@{{}}}}",
        r"\toprule",
        " & ".join(
            ["metric", "$n$", latex_text(results.manifest.parent), *(_heading(results, c) for c in columns)]
        )
        + r" \\",
    ]
    place = None
    several = len({row.place for row in rows}) > 1
    for row in rows:
        if row.place != place:
            place = row.place
            lines.append(r"\midrule")
            if several:
                lines.append(
                    rf"\multicolumn{{{len(columns) + 3}}}{{@{{}}l}}{{\textit{{{latex_text(place)}}}}} \\"
                )
        cells = [_cell(row.findings.get(column)) for column in columns]
        lines.append(" & ".join([_metric(row.first), _counts(row), _parent(results, row), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _caption(results: Results, columns: Sequence[tuple[str, str]]) -> str:
    parent = latex_text(results.manifest.parent)
    model = latex_text(str(results.manifest.model.get("name", "the model")))
    shown = [name for name, _ in columns if name in results.controls]
    kinds = "without quantization, or with another calibration seed"
    control = f" Columns in italics are controls: {kinds}." if shown else ""
    return (
        f"mean change against the unquantized {model} ({parent}), paired by item, and its "
        rf"{100 * (1 - results.alpha):g}\,\% interval; differences of proportions in percentage points (pp). "
        r"\qxdegraded{} degraded, \qximproved{} improved, \qxequivalent{} equivalent, "
        rf"\qxunresolved{{}} unresolved; no symbol: descriptive.{control}"
    )


def _heading(results: Results, column: tuple[str, str]) -> str:
    name, reference = column
    text = latex_text(name)
    if reference != results.manifest.parent:
        return f"{text} vs.\\ {latex_text(reference)}"
    return rf"\textit{{{text}}}" if name in results.controls else text


def _metric(finding: Finding) -> str:
    arrow = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}[finding.higher_is_better]
    unit = "pp" if finding.unit == "proportion" else latex_text(finding.unit)
    return rf"\qxmetric{{{latex_text(metric_label(finding.metric))}{arrow}}}{{{latex_text(finding.scorer)}, {unit}}}"


def _counts(row: _Row) -> str:
    counts = sorted({finding.n for finding in row.findings.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}--{counts[-1]}"


def _parent(results: Results, row: _Row) -> str:
    """The parent's mean where most items are, since each pair has a mean over its own items."""
    own = [f for f in row.findings.values() if f.reference == results.manifest.parent]
    if not own:
        return "--"
    fullest = max(own, key=lambda finding: finding.n)
    return latex_text(level(fullest.reference_mean, fullest.unit))


def _cell(finding: Finding | None) -> str:
    if finding is None or finding.estimate is None:
        return "--"
    change = estimate(finding).removesuffix("\N{NO-BREAK SPACE}pp")
    ends = "" if finding.ci_low is None else interval(finding)
    return rf"\qxcell{{{latex_text(change)}}}{{{_SYMBOLS[finding.verdict]}}}{{{latex_text(ends)}}}"


def _chunks(values: Sequence[_T], most: int) -> list[Sequence[_T]]:
    """Cut a sequence into parts of at most so many, about equally long."""
    size = math.ceil(len(values) / math.ceil(len(values) / most)) if values else 1
    return [values[start : start + size] for start in range(0, len(values), size)]


def _slug(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _comment(text: str) -> str:
    return " ".join(text.split())
