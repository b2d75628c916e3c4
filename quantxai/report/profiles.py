"""Where knowledge sits: what each layer adds to a fact, parent against variant, and how much they share."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from quantxai.report.curves import Curve, axis, curves, row_of_keys
from quantxai.report.layered import Rows, Table, by_layer, layer_means, problems
from quantxai.report.means import Mean, Resampling, mean, mean_change, series
from quantxai.report.results import Compared
from quantxai.report.text import change, count

__all__ = ["Overlap", "Part", "Profiles", "profiles"]

_SCORER = "neuron_attribution"
_KINDS = {"ffn_scores": "FFN", "attention_scores": "attention"}
"""What is drawn, by column."""
Panel = tuple[str, str, Markup]
"""Title, note and picture."""
_STRONGEST = 5
_NOISE = "noise"
"""The control that disturbs the weights as much as its variant does: the baseline of what is shared."""


@dataclass(frozen=True)
class Part:
    """The layers' FFNs, or their attention.

    Attributes:
        title: which of the two.
        strongest: by variant the layers that add most, with what they add, for readers of tables.
    """

    title: str
    strongest: dict[str, list[tuple[int, str]]]


@dataclass(frozen=True)
class Overlap:
    """A line of the table of overlaps.

    Attributes:
        variant: its name.
        of: what kind of control it is, and of which variant; empty for others.
        cells: by metric its mean.
        noise: the noise control beside it; empty without one.
        against: by metric the mean difference to that.
    """

    variant: str
    of: str
    cells: dict[str, Mean]
    noise: str
    against: dict[str, Mean]


@dataclass(frozen=True)
class Profiles:
    """One explainer on one data set.

    Attributes:
        explainer: its name.
        dataset: the data set's name.
        legend: what the lines are.
        pictures: by variant the title, a note and the picture of each profile and its change.
        parts: the same as numbers.
        metrics: of the overlaps, name and description.
        overlaps: the parent, then variants, each followed by its controls.
        alone: variants without a noise control beside them.
        problems: facts of which nothing could be attributed, and facts in all, and for which variants.
    """

    explainer: str
    dataset: str
    legend: Markup
    pictures: dict[str, list[Panel]]
    parts: list[Part]
    metrics: dict[str, str]
    overlaps: list[Overlap]
    alone: list[str]
    problems: list[tuple[int, int, list[str]]]


def profiles(
    run: Compared, entry: Mapping[str, Any], rows: Rows, measurements: pd.DataFrame
) -> Profiles | None:
    """Return what one explainer on one data set found; null where it has no rows.

    Args:
        run: what is the same for all.
        entry: the manifest's description of both.
        rows: its rows.
        measurements: its measurements that have a value.
    """
    if not rows:
        return None
    groups = {str(row["item"]): str(row["group"]) for row in rows}
    tables = {title: by_layer(rows, column) for column, title in _KINDS.items()}
    strongest = {
        title: {name: _strongest(table[name]) for name in run.variants if name in table}
        for title, table in tables.items()
    }
    overlaps = _overlaps(run, measurements)
    described = {name: m.description for (scorer, name), m in run.metrics.items() if scorer == _SCORER}
    filled = {name for line in overlaps for name in line.cells}
    kinds = [("parent", f"{run.variants[0]}, the parent"), ("own", "the variant")]
    with_noise = {str(row["variant"]) for row in rows} & {c.name for c in run.controls if c.method == _NOISE}
    return Profiles(
        explainer=str(entry["explainer"]),
        dataset=str(entry["dataset"]),
        legend=row_of_keys([*kinds, *([("control", "its noise control")] if with_noise else [])]),
        pictures=_pictures(run, tables, groups),
        parts=[Part(title, found) for title, found in strongest.items() if found],
        metrics={name: text for name, text in described.items() if name in filled},
        overlaps=overlaps,
        alone=[line.variant for line in overlaps if line.variant in run.asked and not line.noise],
        problems=problems(rows, run.variants),
    )


def _noise(run: Compared, variant: str, among: Container[str]) -> str:
    """The noise control beside a variant, of those there are; empty without one."""
    own = [c.name for c in run.beside(variant) if c.method == _NOISE and c.of and c.name in among]
    return own[0] if own else ""


def _pictures(
    run: Compared, tables: Mapping[str, Mapping[str, Table]], groups: Mapping[str, str]
) -> dict[str, list[Panel]]:
    """Return by variant the FFNs, how they differ from the parent's, and the same for attention.

    Without variants it is the parent alone. The same kind of picture has the same axis for all variants.
    """
    found: dict[str, list[Panel]] = {}
    for title, table in tables.items():
        shown = [name for name in run.asked or run.variants[:1] if name in table]
        _add(found, title, {name: _curves(run, table, name) for name in shown})
        if run.asked:
            changes = {name: _changes(run, table, name, groups) for name in shown}
            _add(found, f"{title}, change", changes)
    return found


def _add(found: dict[str, list[Panel]], title: str, drawn: Mapping[str, tuple[str, list[Curve]]]) -> None:
    every = [curve for _, lines in drawn.values() for curve in lines]
    marks = axis(every, 0.0, 0.0)
    layers = max((len(curve.values) for curve in every), default=0)
    for name, (note, lines) in drawn.items():
        if lines:
            picture = curves(lines, marks, f"{title} by layer, {name}", layers)
            found.setdefault(name, []).append((title, note, picture))


def _curves(run: Compared, found: Mapping[str, Table], name: str) -> tuple[str, list[Curve]]:
    """The lines of the parent, of the variant and of its noise control, on the facts that both have."""
    parent, noise = run.variants[0], _noise(run, name, found)
    kinds = {name: "own", noise: "control", parent: "parent"}
    items = sorted(found[name].keys() & found.get(parent, found[name]).keys())
    lines = []
    for one, kind in reversed(kinds.items()):
        known = [item for item in items if item in found.get(one, {})]
        if known:
            lines.append(Curve(one, kind, layer_means(found[one], known)))
    return count(len(items), "fact"), lines


def _changes(
    run: Compared, found: Mapping[str, Table], name: str, groups: Mapping[str, str]
) -> tuple[str, list[Curve]]:
    """The differences to the parent, of the variant with their interval, and of its noise control."""
    parent, noise = found.get(run.variants[0], {}), _noise(run, name, found)
    lines, items = [], []
    for one, kind in {noise: "control", name: "own"}.items():
        items = sorted(parent.keys() & found.get(one, {}).keys())
        if items:
            table = np.array([found[one][item] - parent[item] for item in items])
            low, high = Resampling.of(run.analysis).bands(table, [groups[item] for item in items]).tolist()
            band = (low, high) if kind == "own" else None
            lines.append(Curve(one, kind, [float(v) for v in table.mean(0)], band))
    return count(len(items), "fact"), lines


def _strongest(table: Table) -> list[tuple[int, str]]:
    """The layers that add most on average, and what, `+0.31`."""
    means = layer_means(table, table)
    order = sorted(
        (layer for layer, value in enumerate(means) if np.isfinite(value)), key=lambda layer: -means[layer]
    )[:_STRONGEST]
    return [(layer, change(means[layer], "nats", 2)) for layer in order]


def _overlaps(run: Compared, measurements: pd.DataFrame) -> list[Overlap]:
    """The parent with the controls of its own, then every variant with its; nothing without others."""
    found = series(measurements, _SCORER)
    measured = {variant for variant, metric in found if metric != "failure"}
    lines = []
    for name in [run.variants[0], *run.asked]:
        of = None if name == run.variants[0] else name
        below = {c.name: f"{c.method}, beside {name}" for c in run.controls if c.of == of}
        noise = "" if of is None else _noise(run, name, measured)
        for one, what in {name: "", **below}.items():
            if one in measured:
                lines.append(_overlap(run, found, one, what, "" if what else noise))
    # The parent beside itself says nothing.
    return lines if len(lines) > 1 else []


def _overlap(
    run: Compared, found: Mapping[tuple[str, str], pd.DataFrame], name: str, of: str, noise: str
) -> Overlap:
    how = Resampling.of(run.analysis)
    units = {metric: m.unit for (scorer, metric), m in run.metrics.items() if scorer == _SCORER}
    own = {metric: found[name, metric] for metric in units if (name, metric) in found and metric != "failure"}
    return Overlap(
        name,
        of,
        {metric: mean(values, units[metric], how) for metric, values in own.items()},
        noise,
        {
            metric: mean_change(values, found[noise, metric], units[metric], how)
            for metric, values in own.items()
            if (noise, metric) in found
        },
    )
