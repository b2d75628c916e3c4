"""Which outcomes a reader wants to see first: those the run is to decide, then those known to matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantxai.records import Finding, Metric

__all__ = ["MOST_PANELS", "MOST_ROWS", "Row", "by_interest", "by_scorer", "headlines"]

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
"""Plots per data set, unless more outcomes are confirmatory."""
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

    @property
    def confirmatory(self) -> bool:
        """Whether the analysis names it."""
        return any(finding.confirmatory for finding in self.findings.values())


def by_scorer(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by scorer, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.scorer, []).append(row)
    return found


def headlines(rows: Sequence[Row]) -> list[Row]:
    """Return the confirmatory outcomes and the headlines there are; without any, the first directional metrics."""
    by_name = {row.name: row for row in rows}
    preferred = [[by_name[name] for name in names if name in by_name] for names in _HEADLINES]
    asked = [row for row in rows if row.confirmatory]
    known = [found[0] for found in preferred if found and found[0] not in asked]
    chosen = [*asked, *known]
    if not chosen:
        chosen = sorted(rows, key=lambda row: row.metric.higher_is_better is None)[:MOST_PANELS]
    return chosen


def by_interest(rows: Sequence[Row], variants: set[str]) -> tuple[list[Row], list[Row]]:
    """Return what to show and what to fold away, scorers with headlines first, theirs together.

    Args:
        rows: of one explainer on one data set.
        variants: those a change of which is of interest.
    """
    best: dict[str, tuple[bool, int]] = {}
    for row in rows:
        known = best.get(row.scorer, (True, len(_HEADLINES)))
        best[row.scorer] = min(known, (not row.confirmatory, _rank(row)))
    ordered = sorted(rows, key=lambda row: (best[row.scorer], not row.confirmatory))
    if len(ordered) <= MOST_ROWS:
        return ordered, []
    first = headlines(rows)
    chosen = [
        row
        for row in ordered
        if row in first
        or row.metric.name == "failure"
        or any(f.verdict in ("degraded", "improved") for name, f in row.findings.items() if name in variants)
    ]
    return chosen, [row for row in ordered if row not in chosen]


def _rank(row: Row) -> int:
    """The place among the headlines."""
    places = [place for place, names in enumerate(_HEADLINES) if row.name in names]
    return places[0] if places else len(_HEADLINES)
