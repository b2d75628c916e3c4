"""One explainer on one data set: its metrics, what matters first, and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from quantxai.records import Finding, Metric, Trend
from quantxai.report import plots, prose, text
from quantxai.report.crossing import FLIPS, Crossing, crossing
from quantxai.report.forest import forest
from quantxai.report.headlines import MOST_PANELS, Row, by_interest, headlines
from quantxai.report.notes import Note
from quantxai.report.numbers import Line, lines
from quantxai.report.phrases import phrase, trend_sentence
from quantxai.report.tradeoff import tradeoff

__all__ = ["Compared", "Control", "Group", "Panel", "make_group"]


@dataclass(frozen=True)
class Panel:
    """One picture of one outcome.

    Attributes:
        title: what the outcome is called.
        note: which way it is better, and what else to know.
        confirmatory: whether the analysis names it.
        picture: inline SVG.
        trends: what rises or falls with bits, a sentence each.
    """

    title: str
    note: str
    confirmatory: bool
    picture: Markup
    trends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """One explainer on one data set.

    Attributes:
        explainer: its name.
        dataset: the data set's name.
        entry: the manifest's description of both.
        rows: one per metric, those of one scorer together.
        folded: further metrics, of lesser interest: beyond chance none of the quantized variants changed.
        empty: names of metrics of which no item could be compared.
        headlines: those to see first, confirmatory ones leading.
        numbers: every finding with all its numbers.
        forests: the headlines' changes with intervals.
        panels: the same over bits.
        crossing: flip rates by generator and judge, where edits were judged.
        tradeoff: flips against how much is changed; empty where one of them is missing.
        crossing_notes: what the scorers behind it noted about themselves.
        notes: what the others noted.
        failed: failed generations by kind and variant.
        measured: items of the data set with a row, by variant.
        generated: whether what failed are generations, not items that could not be looked into.
    """

    explainer: str
    dataset: str
    entry: dict[str, Any]
    rows: list[Row]
    folded: list[Row]
    empty: list[str]
    headlines: list[Row]
    numbers: list[Line]
    forests: list[Panel]
    panels: list[Panel]
    crossing: Crossing | None
    tradeoff: Markup
    crossing_notes: list[Note]
    notes: list[Note]
    failed: dict[str, dict[str, int]]
    measured: dict[str, int]
    generated: bool

    @property
    def all_rows(self) -> list[Row]:
        """The metrics shown first and those folded away."""
        return [*self.rows, *self.folded]


@dataclass(frozen=True)
class Control:
    """A variant that is not quantized, or is another sample of one: what changes without what is asked about.

    Attributes:
        name: its name.
        of: the variant it stands beside; null where it is the parent's.
        method: rerun, dtype, noise, or its variant's own with another seed.
    """

    name: str
    of: str | None
    method: str


@dataclass(frozen=True)
class Compared:
    """What is the same for all explainers and data sets of a run.

    Attributes:
        variants: the parent, then the others, then controls.
        points: the variants in the pictures.
        metrics: what each is, by scorer and name, in planned order.
        analysis: alpha and resamples, from the manifest.
        controls: those among the variants.
    """

    variants: list[str]
    points: list[plots.Point]
    metrics: dict[tuple[str, str], Metric]
    analysis: Mapping[str, Any]
    controls: Sequence[Control] = ()

    @property
    def asked(self) -> list[str]:
        """The variants that are neither parent nor control."""
        controls = {control.name for control in self.controls}
        return [name for name in self.variants[1:] if name not in controls]

    def beside(self, variant: str) -> list[Control]:
        """Return the controls an effect of this variant is shown beside: its own, then those of the parent."""
        own = [control for control in self.controls if control.of == variant]
        return [*own, *(control for control in self.controls if control.of is None)]


def make_group(
    run: Compared,
    entry: dict[str, Any],
    findings: Sequence[Finding],
    rows: Sequence[Mapping[str, Any]],
    measurements: pd.DataFrame,
    notes: Sequence[Note],
    trends: Sequence[Trend] = (),
) -> Group:
    """Work out one explainer on one data set.

    Args:
        run: what is the same for all.
        entry: the manifest's description of both.
        findings: its own, against the parent.
        rows: its rows.
        measurements: its measurements that have a value.
        notes: what its scorers noted.
        trends: its own.
    """
    explainer, dataset = str(entry["explainer"]), str(entry["dataset"])
    found = _lines(findings, run.metrics, run.variants[1:])
    shown = {point.variant for point in run.points}
    filled = [row for row in found if any(f.n for f in row.findings.values())]
    first, folded = by_interest(filled, shown)
    leading = headlines(filled)
    judging = set(measurements[measurements.metric.isin(FLIPS)].scorer)
    return Group(
        explainer=explainer,
        dataset=dataset,
        entry=entry,
        rows=first,
        folded=folded,
        empty=[row.metric.name for row in found if row not in filled],
        headlines=leading,
        numbers=lines([*first, *folded], run.asked, run.variants[0]),
        forests=_forests(leading, run),
        panels=_panels(leading, run, dataset, trends),
        crossing=crossing(measurements, run.variants),
        tradeoff=tradeoff(measurements, run.metrics.values(), run.points, run.variants[0], run.analysis),
        crossing_notes=[note for note in notes if note.scorer in judging],
        notes=[note for note in notes if note.scorer not in judging],
        failed=_failed(rows),
        measured=dict(Counter(str(row["variant"]) for row in rows)),
        generated=all(row.get("problem") is None for row in rows),
    )


def _lines(
    findings: Sequence[Finding], metrics: Mapping[tuple[str, str], Metric], variants: Sequence[str]
) -> list[Row]:
    by_metric: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in findings:
        by_metric.setdefault((finding.scorer, finding.metric), {})[finding.variant] = finding
    lines = []
    for key, metric in metrics.items():
        if key in by_metric:
            best = max(by_metric[key].values(), key=lambda f: f.n)
            ordered = {name: by_metric[key][name] for name in variants if name in by_metric[key]}
            lines.append(Row(key[0], metric, best.reference_mean, ordered))
    return lines


def _shown(leading: Sequence[Row]) -> list[Row]:
    """Return the outcomes that are drawn: the confirmatory ones, and further ones up to `MOST_PANELS`."""
    return list(leading[: max(MOST_PANELS, sum(row.confirmatory for row in leading))])


def _forests(leading: Sequence[Row], run: Compared) -> list[Panel]:
    controls = {control.name for control in run.controls}
    return [
        Panel(
            _title(row),
            _note(row),
            row.confirmatory,
            forest(list(row.findings.values()), controls, _title(row)),
        )
        for row in _shown(leading)
        if any(finding.estimate is not None for finding in row.findings.values())
    ]


def _title(row: Row) -> str:
    return phrase(next(iter(row.findings.values()))).noun


def _note(row: Row) -> str:
    return f"{text.metric_label(row.metric.name)}, {prose.direction(row.metric)}"


def _panels(leading: Sequence[Row], run: Compared, dataset: str, trends: Sequence[Trend]) -> list[Panel]:
    """Return the plots of the headlines over bits."""
    alpha = float(run.analysis.get("alpha", 0.05))
    beside: dict[str | None, list[str]] = {}
    for control in run.controls:
        beside.setdefault(control.of, []).append(control.name)
    panels = []
    for row in _shown(leading):
        title = f"{text.metric_label(row.metric.name)}, {dataset}"
        picture = plots.panel(run.points, list(row.findings.values()), title, beside)
        if picture:
            own = [trend for trend in trends if trend.outcome == row.name]
            panels.append(
                Panel(
                    _title(row),
                    _note(row),
                    row.confirmatory,
                    picture,
                    tuple(trend_sentence(trend, alpha) for trend in own),
                )
            )
    return panels


def _failed(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how often each kind of failed generation occurred, by kind and variant."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        # Why there was nothing to measure is a failure, too.
        failure = row.get("failure") or row.get("problem")
        if failure is not None:
            counts = found.setdefault(str(failure), {})
            counts[str(row["variant"])] = counts.get(str(row["variant"]), 0) + 1
    return dict(sorted(found.items()))
