"""One explainer on one data set: its metrics, what matters first, and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from quantxai.records import Finding, Metric
from quantxai.report import plots, prose, text
from quantxai.report.crossing import FLIPS, Crossing, crossing
from quantxai.report.notes import Note
from quantxai.report.tradeoff import tradeoff

__all__ = ["Compared", "Control", "Group", "Row", "by_scorer", "make_group"]

_HEADLINES = (
    ("flips.own_soft_flip", "flips.own_hard_flip"),
    ("flips.parent_soft_flip", "flips.parent_hard_flip"),
    ("edits.edit_distance_normalized", "edits.edit_distance_relative", "edits.edit_distance"),
    ("perplexity.nll",),
    ("recall.recall", "recall.first_token_recall"),
    ("recall.logprob",),
    ("recall.reciprocal_rank",),
    ("prediction.accuracy",),
    ("bertscore.sentence_cosine", "bertscore.bertscore_f1"),
    ("rouge.rouge_l",),
    ("simulatability.gain",),
    ("bartscore.bartscore",),
    ("neuron_attribution.neuron_overlap",),
    ("neuron_attribution.neurons_above",),
    ("neuron_attribution.ffn_profile_similarity",),
    ("multi_hop.two_hop_correct",),
    ("multi_hop.first_hop_correct",),
    ("multi_hop.second_hop_correct",),
    ("multi_hop.entity_substitution",),
)
"""Metrics preferred for the plots and the top of the table, the first there is of each; where there is
none, any directional."""
MOST_PANELS = 4
"""Plots per data set."""
MOST_ROWS = 8
"""Metrics in a table of which nothing is folded away."""


@dataclass(frozen=True)
class Row:
    """One metric in the table of one data set: its description, the parent, a finding per variant."""

    scorer: str
    metric: Metric
    parent_mean: float | None
    findings: dict[str, Finding]

    @property
    def name(self) -> str:
        """Scorer and metric."""
        return f"{self.scorer}.{self.metric.name}"


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
        panels: title, caption and picture of the plots.
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
    panels: list[tuple[str, str, Markup]]
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


def by_scorer(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by scorer, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.scorer, []).append(row)
    return found


def make_group(
    run: Compared,
    entry: dict[str, Any],
    findings: Sequence[Finding],
    rows: Sequence[Mapping[str, Any]],
    measurements: pd.DataFrame,
    notes: Sequence[Note],
) -> Group:
    """Work out one explainer on one data set.

    Args:
        run: what is the same for all.
        entry: the manifest's description of both.
        findings: its own.
        rows: its rows.
        measurements: its measurements that have a value.
        notes: what its scorers noted.
    """
    explainer, dataset = str(entry["explainer"]), str(entry["dataset"])
    lines = _lines(findings, run.metrics, run.variants[1:])
    shown = {point.variant for point in run.points}
    filled = [row for row in lines if any(f.n for f in row.findings.values())]
    first, folded = _by_interest(filled, shown)
    judging = set(measurements[measurements.metric.isin(FLIPS)].scorer)
    return Group(
        explainer=explainer,
        dataset=dataset,
        entry=entry,
        rows=first,
        folded=folded,
        empty=[row.metric.name for row in lines if row not in filled],
        panels=_panels(filled, run.points, dataset),
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


def _rank(row: Row) -> int:
    """The place among the headlines."""
    places = [place for place, names in enumerate(_HEADLINES) if row.name in names]
    return places[0] if places else len(_HEADLINES)


def _by_interest(rows: Sequence[Row], variants: set[str]) -> tuple[list[Row], list[Row]]:
    """Return what to show and what to fold away, scorers with headlines first, theirs together."""
    best: dict[str, int] = {}
    for row in rows:
        best[row.scorer] = min(best.get(row.scorer, len(_HEADLINES)), _rank(row))
    ordered = sorted(rows, key=lambda row: best[row.scorer])
    if len(ordered) <= MOST_ROWS:
        return ordered, []
    chosen = [
        row
        for row in ordered
        if row in _chosen(rows)
        or row.metric.name == "failure"
        or any(f.verdict in ("degraded", "improved") for name, f in row.findings.items() if name in variants)
    ]
    return chosen, [row for row in ordered if row not in chosen]


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """The headlines there are; without any, the first directional metrics."""
    by_name = {row.name: row for row in rows}
    preferred = [[by_name[name] for name in names if name in by_name] for names in _HEADLINES]
    chosen = [found[0] for found in preferred if found]
    if not chosen:
        chosen = sorted(rows, key=lambda row: row.metric.higher_is_better is None)[:MOST_PANELS]
    return chosen


def _panels(
    rows: Sequence[Row], points: Sequence[plots.Point], dataset: str
) -> list[tuple[str, str, Markup]]:
    """Return the plots of the headlines."""
    shown = {point.variant for point in points}
    panels = []
    for row in _chosen(rows)[:MOST_PANELS]:
        title = f"{text.metric_label(row.metric.name)}, {dataset}"
        picture = plots.panel(points, [f for f in row.findings.values() if f.variant in shown], title)
        if picture:
            panels.append((text.metric_label(row.metric.name), prose.direction(row.metric), picture))
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
