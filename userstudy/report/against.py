"""People beside metrics: what each found about a variant, and whether a metric sees what people see."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from quantxai.records import Finding
from quantxai.report.heat import HeatCell, tone
from quantxai.report.phrases import phrase
from quantxai.report.text import SYMBOLS, change, estimate, interval, listing, metric_label, p_value
from userstudy.analysis.results import MetricCorrelation, StudyAnalysis
from userstudy.report.spoken import anchor, as_finding

__all__ = ["Correlations", "Glance", "GlanceLine", "agreements", "correlations", "glance", "relevant"]

_MOST_METRICS = 6
"""Automatic outcomes that are shown where the run had none to decide."""
_MOST_ROWS = 10
"""Metrics of which nothing is folded away."""
_STRONG = (0.1, 0.3, 0.5)
"""Cohen's small, medium and large correlations: the steps of the colour."""


_Row = tuple[str, str, list[tuple[str, str, str] | None]]


@dataclass(frozen=True)
class GlanceLine:
    """One outcome: what it is called, more about it, and a cell for each variant that has one."""

    noun: str
    more: str
    cells: dict[str, HeatCell | None]


@dataclass(frozen=True)
class Glance:
    """Outcomes by variants: parts with their lines."""

    variants: list[str]
    parts: dict[str, list[GlanceLine]]


@dataclass(frozen=True)
class Correlations:
    """Metrics by questions.

    Attributes:
        questions: the columns.
        lines: a metric's name, where it was measured, and a cell for each question: a tone from worse-3 to
            better-3, the coefficient, and everything about it; those that go along most.
        folded: the others.
    """

    questions: list[str]
    lines: list[_Row]
    folded: list[_Row]


def relevant(
    findings: Iterable[Finding], analysis: StudyAnalysis, rated: Collection[tuple[str, str]]
) -> list[Finding]:
    """Return the run's findings about what people rated, with a verdict.

    The run's confirmatory ones; where it has none, the first few of the others.

    Args:
        findings: the run's.
        analysis: of the ratings: their variants and reference.
        rated: explainers with data sets of which people rated texts.
    """
    own = [
        f
        for f in findings
        if (f.explainer, f.dataset) in rated
        and f.reference == analysis.reference
        and f.variant in analysis.variants
        and f.verdict is not None
        and f.estimate is not None
    ]
    asked = [f for f in own if f.confirmatory]
    if asked:
        return asked
    names = list(dict.fromkeys((f.explainer, f.dataset, f.outcome) for f in own))[:_MOST_METRICS]
    return [f for f in own if (f.explainer, f.dataset, f.outcome) in names]


def glance(analysis: StudyAnalysis, automatic: Sequence[Finding]) -> Glance:
    """Return what people and metrics found, side by side.

    Args:
        analysis: of the ratings.
        automatic: `relevant` findings of the run.
    """
    people: dict[bool, dict[str, dict[str, HeatCell | None]]] = {True: {}, False: {}}
    for found in analysis.findings:
        cell = _cell(as_finding(found), anchor(found)) if found.estimate is not None else None
        people[found.confirmatory].setdefault(found.question, {})[found.variant] = cell
    parts = {
        f"people: {name}": [_people_line(analysis, q, cells) for q, cells in people[asked].items()]
        for name, asked in (("what the study is to decide", True), ("hints, to be confirmed", False))
    }
    metrics: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in automatic:
        metrics.setdefault((finding.explainer, finding.dataset, finding.outcome), []).append(finding)
    asked = any(f.confirmatory for f in automatic)
    parts[f"the run's metrics: {'what it was to decide' if asked else 'exploratory'}"] = [
        _metric_line(found) for found in metrics.values()
    ]
    shown = {name: [line for line in lines if any(line.cells.values())] for name, lines in parts.items()}
    return Glance(list(analysis.variants), {name: lines for name, lines in shown.items() if lines})


def _people_line(analysis: StudyAnalysis, question: str, cells: dict[str, HeatCell | None]) -> GlanceLine:
    margin = next(f.margin for f in analysis.findings if f.question == question)
    asked = analysis.settings.question(question)
    if asked.kind == "likert":
        more = f"points of {asked.points}, margin ±{margin:g}"
    else:
        more = f"percentage points, margin ±{100 * margin:g}"
    return GlanceLine(metric_label(question), more, cells)


def _metric_line(findings: Sequence[Finding]) -> GlanceLine:
    first = findings[0]
    return GlanceLine(
        phrase(first).noun,
        f"{first.explainer} on {first.dataset}",
        {f.variant: _cell(f, "") for f in findings},
    )


def _cell(finding: Finding, place: str) -> HeatCell:
    symbol, word = SYMBOLS[finding.verdict]
    short = change(finding.estimate, finding.unit, 0 if finding.unit == "proportion" else 2)
    told = f"{finding.variant}: {estimate(finding)} {interval(finding)}, {word}"
    return HeatCell(tone(finding), symbol, word, short, told, place)


def agreements(analysis: StudyAnalysis, automatic: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return for each variant whether people and metrics say the same, a sentence; none without metrics."""
    told = []
    for name in analysis.variants:
        people = [f.verdict for f in analysis.findings if f.variant == name and f.confirmatory and f.verdict]
        metrics = [f.verdict for f in automatic if f.variant == name and f.verdict]
        if people and metrics:
            told.append((name, _agreement(_word(people), _word(metrics))))
    return told


def _word(verdicts: Sequence[str]) -> str:
    """Return what several verdicts come to."""
    moved = [word for word in ("degraded", "improved") if word in verdicts]
    if len(moved) == 2:
        return "partly worse, partly better"
    if moved:
        return {"degraded": "worse", "improved": "better"}[moved[0]]
    return "equivalent" if all(verdict == "equivalent" for verdict in verdicts) else "undecided"


def _agreement(people: str, metrics: str) -> str:
    if "undecided" in (people, metrics):
        undecided = [who for who, word in (("people", people), ("metrics", metrics)) if word == "undecided"]
        if len(undecided) == 2:
            return "Undecided for people and metrics alike."
        other = metrics if undecided[0] == "people" else people
        who = "the metrics" if undecided[0] == "people" else "people"
        return f"Undecided for {listing(undecided)}; for {who} it is {other}."
    if people == metrics:
        return f"People and metrics agree: {people}."
    return f"People and metrics differ: for people it is {people}, for the metrics {metrics}."


def correlations(analysis: StudyAnalysis, variant: str | None = None) -> Correlations:
    """Return how metrics go with ratings, metrics that go along most first; those that never vary are left out.

    Args:
        analysis: of the ratings.
        variant: over the stimuli of this one; of all variants where left out.
    """
    alpha = analysis.settings.analysis.alpha
    chosen = [c for c in analysis.correlations if c.variant == variant]
    questions = [q.id for q in analysis.settings.questions if any(c.question == q.id for c in chosen)]
    by_metric: dict[tuple[str, str, str], dict[str, MetricCorrelation]] = {}
    for found in chosen:
        by_metric.setdefault((found.explainer, found.scorer, found.metric), {})[found.question] = found
    strongest = {
        key: max((abs(c.rho) for c in cells.values() if c.rho is not None), default=-1.0)
        for key, cells in by_metric.items()
    }
    lines = []
    for key in sorted(
        (key for key in by_metric if strongest[key] >= 0), key=lambda key: (-strongest[key], key)
    ):
        cells = [_correlation(by_metric[key].get(question), alpha) for question in questions]
        first = next(iter(by_metric[key].values()))
        turned = ", sign turned" if first.higher_is_better is False else ""
        lines.append((metric_label(key[2]), f"{key[1]} of {key[0]}{turned}", cells))
    return Correlations(questions, lines[:_MOST_ROWS], lines[_MOST_ROWS:])


def _correlation(found: MetricCorrelation | None, alpha: float) -> tuple[str, str, str] | None:
    if found is None or found.rho is None:
        return None
    steps = sum(abs(found.rho) >= step for step in _STRONG)
    colour = "even" if not steps else f"{'better' if found.rho > 0 else 'worse'}-{steps}"
    sure = found.p_adjusted is not None and found.p_adjusted < alpha
    ends = ""
    if found.ci_low is not None and found.ci_high is not None:
        ends = f" [{_signed(found.ci_low)}, {_signed(found.ci_high)}]"
    told = f"{_signed(found.rho)}{ends}, adjusted p {p_value(found.p_adjusted)}, {found.stimuli} stimuli"
    return colour if sure else f"{colour} unresolved", _signed(found.rho), told


def _signed(value: float) -> str:
    return change(value, "", 2)
