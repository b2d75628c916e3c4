"""What each variant knows: recall, log-probability and rank, averaged over relations and over facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from quantxai.records import Metric
from quantxai.report.means import Mean, Resampling, macro_change, macro_mean, mean, series
from quantxai.report.results import Compared

__all__ = ["METRICS", "Knowledge", "Known", "knowledge"]

METRICS = {
    "recall": "recall, whole object",
    "first_token_recall": "recall, first token",
    "logprob": "log-probability, nats",
    "reciprocal_rank": "reciprocal rank",
}
"""The columns, by metric."""
_SCORER = "recall"


@dataclass(frozen=True)
class Known:
    """One metric of one variant.

    Attributes:
        macro: mean over relations.
        micro: mean over facts.
        change: macro mean of the differences to the parent, on the facts of both; null for the parent.
    """

    macro: Mean
    micro: Mean
    change: Mean | None


@dataclass(frozen=True)
class Knowledge:
    """One explainer on one set of facts.

    Attributes:
        explainer: its name.
        dataset: the data set's name.
        shots: demonstrations in each prompt, in words; empty where the manifest does not say.
        columns: metrics that were measured, with their headings.
        lines: by variant, parent first, a cell per column; null where it has no value.
    """

    explainer: str
    dataset: str
    shots: str
    columns: dict[str, str]
    lines: dict[str, list[Known | None]]

    @property
    def sizes(self) -> dict[str, Mean]:
        """By variant the cell with the most facts, for their number and that of relations."""
        cells = {name: [c.macro for c in line if c is not None] for name, line in self.lines.items()}
        return {name: max(found, key=lambda m: m.n) for name, found in cells.items()}


def knowledge(run: Compared, entry: Mapping[str, Any], measurements: pd.DataFrame) -> Knowledge | None:
    """Return the table of one explainer on one data set; null where no recall was measured.

    Args:
        run: what is the same for all.
        entry: the manifest's description of both.
        measurements: their measurements that have a value.
    """
    how = Resampling.of(run.analysis)
    metrics = {name: run.metrics[_SCORER, name] for name in METRICS if (_SCORER, name) in run.metrics}
    found = series(measurements, _SCORER)
    columns = [name for name in metrics if any((v, name) in found for v in run.variants)]
    lines = {
        variant: [_known(found, variant, run.variants[0], metrics[name], how) for name in columns]
        for variant in run.variants
        if any((variant, name) in found for name in columns)
    }
    if not lines:
        return None
    shots = (entry.get("options") or {}).get("shots")
    return Knowledge(
        str(entry["explainer"]),
        str(entry["dataset"]),
        "" if shots is None else "zero-shot" if shots == 0 else f"{shots}-shot",
        {name: METRICS[name] for name in columns},
        lines,
    )


def _known(
    found: Mapping[tuple[str, str], pd.DataFrame], variant: str, parent: str, metric: Metric, how: Resampling
) -> Known | None:
    own, other = (found.get((name, metric.name)) for name in (variant, parent))
    if own is None:
        return None
    change = None
    if variant != parent and other is not None:
        change = macro_change(own, other, metric.unit, how)
    return Known(macro_mean(own, metric.unit, how), mean(own, metric.unit, how), change)
