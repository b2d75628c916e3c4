"""Questions over two hops: how many are answered, where the bridge is recalled, whether it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from quantxai.report.curves import Curve, axis, curves, row_of_keys
from quantxai.report.layered import Rows, Table, by_layer, layer_means, problems
from quantxai.report.means import Mean, Resampling, mean, series
from quantxai.report.results import Compared
from quantxai.report.text import count, level

__all__ = ["ACCURACIES", "Hops", "Recalled", "hops"]

ACCURACIES = {
    "first_hop_correct": "first hop",
    "second_hop_correct": "second hop",
    "two_hop_correct": "two-hop question",
    "latent_composition": "two-hop, where both hops are right",
}
"""The columns, by metric."""
_SCORER = "multi_hop"
_OTHERS = {"entity": "another subject", "relation": "another relation"}


@dataclass(frozen=True)
class Recalled:
    """How well a variant recalls the bridge where the parent does best on average, for readers of tables.

    The place is the parent's for all: were it each variant's own, it would be chosen on the data it is read from,
    and two variants would be compared at different places.

    Attributes:
        layer: where.
        value: mean EntRec there, nats.
        shares: by substitution how often the question's own exceeds it there, in words.
        n: questions.
    """

    layer: str
    value: str
    shares: dict[str, str]
    n: int


@dataclass(frozen=True)
class Hops:
    """One explainer on one data set.

    Attributes:
        explainer: its name.
        dataset: the data set's name.
        columns: the accuracies that were measured, with their headings.
        accuracies: by variant a mean per column; null where it has no value.
        legend: what the lines of the first picture are.
        legend_shares: and of the second.
        recall: EntRec by layer, one per variant: name, note, picture.
        shares: how often the question's own exceeds each substitute, likewise.
        recalled: the recall at the parent's best layer in words, by variant; none where the parent has none.
        layers: where the causal link was measured.
        causal: by variant the share of questions at each of them.
        problems: questions that nothing could be measured in, and questions in all, and for which variants.
    """

    explainer: str
    dataset: str
    columns: dict[str, str]
    accuracies: dict[str, list[Mean | None]]
    legend: Markup
    legend_shares: Markup
    recall: list[tuple[str, str, Markup]]
    shares: list[tuple[str, str, Markup]]
    recalled: dict[str, Recalled]
    layers: list[int]
    causal: dict[str, list[Mean]]
    problems: list[tuple[int, int, list[str]]]


def hops(run: Compared, entry: Mapping[str, Any], rows: Rows, measurements: pd.DataFrame) -> Hops | None:
    """Return what one explainer on one data set found; null where it has no rows.

    Args:
        run: what is the same for all.
        entry: the manifest's description of both.
        rows: its rows.
        measurements: its measurements that have a value.
    """
    if not rows:
        return None
    parent, how = run.variants[0], Resampling.of(run.analysis)
    own = by_layer(rows, "entrec")
    others = {name: by_layer(rows, f"entrec_{name}") for name in _OTHERS}
    found = [
        _Recall(name, own[name], {o: others[o].get(name, {}) for o in _OTHERS})
        for name in run.variants
        if name in own
    ]
    of_parent = next((one for one in found if one.variant == parent), None)
    place = None if of_parent is None else of_parent.best()
    # Controls are in the tables alone.
    shown = [one for one in found if one.variant in (parent, *run.asked)]
    columns, accuracies = _accuracies(run, measurements, how)
    layers, causal = _causal(run, rows, how)
    substitutes = [(name, f"with {_OTHERS[name]}") for name in _OTHERS if others[name]]
    of_parents = [(f"parent {kind}", f"{parent}, {name}") for kind, name in substitutes]
    return Hops(
        explainer=str(entry["explainer"]),
        dataset=str(entry["dataset"]),
        columns=columns,
        accuracies=accuracies,
        legend=row_of_keys(
            [("own", "the question's own description"), *substitutes, ("parent", f"{parent}, own")]
        ),
        legend_shares=row_of_keys([*substitutes, *of_parents]),
        recall=_pictures([(one.variant, one.means(of_parent)) for one in shown], "EntRec by layer"),
        shares=_pictures(
            [(one.variant, one.exceeding(of_parent)) for one in shown],
            "Share of questions whose own description recalls the bridge more",
            "proportion",
        ),
        recalled={} if place is None else {one.variant: one.at(place) for one in found},
        layers=layers,
        causal=causal,
        problems=problems(rows, run.variants),
    )


def _seen(means: list[float]) -> list[float]:
    """Without layer 0, what enters the model: it has seen one token, and is far below all others."""
    return [math.nan, *means[1:]]


class _Recall:
    """EntRec of one variant: its questions' own, and that of their substitutes."""

    def __init__(self, variant: str, own: Table, others: Mapping[str, Table]) -> None:
        self.variant, self.own, self.others = variant, own, others

    def means(self, parent: _Recall | None) -> tuple[list[str], list[Curve]]:
        """Return the questions and the curves of the picture: the parent's own, the substitutes', the own."""
        items = self._shared(parent)
        lines = []
        if items and parent is not None and parent is not self:
            lines.append(Curve(parent.variant, "parent", _seen(layer_means(parent.own, items))))
        for name, table in self.others.items():
            known = [item for item in items if item in table]
            if known:
                lines.append(Curve(_OTHERS[name], name, _seen(layer_means(table, known))))
        if items:
            lines.append(Curve("own", "own", _seen(layer_means(self.own, items))))
        return items, lines

    def exceeding(self, parent: _Recall | None) -> tuple[list[str], list[Curve]]:
        """Return the questions and how often their own exceeds each substitute, the parent's first."""
        items = self._shared(parent)
        lines = []
        if parent is not None and parent is not self:
            lines += [
                Curve(f"{_OTHERS[name]} in {parent.variant}", f"parent {name}", shares)
                for name, shares in parent.shares(items).items()
            ]
        lines += [Curve(_OTHERS[name], name, shares) for name, shares in self.shares(items).items()]
        return items, lines

    def shares(self, items: Sequence[str]) -> dict[str, list[float]]:
        """Return at each layer the share of questions whose own exceeds the substitute, by substitution."""
        found = {}
        for name, table in self.others.items():
            above = {i: np.greater(self.own[i], table[i]) for i in items if i in table and i in self.own}
            above = {i: a.astype(float) for i, a in above.items()}
            if above:
                found[name] = _seen(layer_means(above, above))
        return found

    def best(self) -> int:
        """Return the layer with the highest mean; the embedding, layer 0, has seen no subject."""
        means = layer_means(self.own, self.own)
        return max(range(1, len(means)), key=means.__getitem__, default=0)

    def at(self, layer: int) -> Recalled:
        """Return what the tables say of one layer."""
        means = layer_means(self.own, self.own)
        shares = {name: level(of[layer], "proportion") for name, of in self.shares(sorted(self.own)).items()}
        name = "final norm" if layer == len(means) - 1 else str(layer)
        return Recalled(name, level(means[layer], "nats"), shares, len(self.own))

    def _shared(self, parent: _Recall | None) -> list[str]:
        return sorted(self.own if parent is None else self.own.keys() & parent.own.keys())


def _pictures(
    drawn: Sequence[tuple[str, tuple[list[str], list[Curve]]]], title: str, unit: str = ""
) -> list[tuple[str, str, Markup]]:
    """Return name, note and picture of each that has a curve, all on one axis."""
    every = [curve for _, (_, lines) in drawn for curve in lines]
    marks = axis(every, 0.0, 1.0) if unit == "proportion" else axis(every)
    layers = max((len(curve.values) for curve in every), default=0)
    return [
        (name, count(len(items), "question"), curves(lines, marks, f"{title}, {name}", layers, unit))
        for name, (items, lines) in drawn
        if lines
    ]


def _accuracies(
    run: Compared, measurements: pd.DataFrame, how: Resampling
) -> tuple[dict[str, str], dict[str, list[Mean | None]]]:
    found = series(measurements, _SCORER)
    columns = {m: title for m, title in ACCURACIES.items() if any((v, m) in found for v in run.variants)}
    lines = {
        variant: [
            mean(found[variant, m], "proportion", how) if (variant, m) in found else None for m in columns
        ]
        for variant in run.variants
        if any((variant, m) in found for m in columns)
    }
    return columns, lines


def _causal(run: Compared, rows: Rows, how: Resampling) -> tuple[list[int], dict[str, list[Mean]]]:
    """Return the layers, and by variant the share of questions with a positive derivative at each."""
    listed = [
        {
            "variant": str(row["variant"]),
            "layer": int(layer),
            "value": float(d > 0),
            "group": str(row["group"]),
        }
        for row in rows
        for layer, d in zip(row.get("causal_layers") or (), row.get("causal_derivatives") or (), strict=False)
        if d is not None and math.isfinite(d)
    ]
    if not listed:
        return [], {}
    frame = pd.DataFrame(listed)
    layers = sorted(set(frame.layer))
    return layers, {
        name: [mean(part[part.layer == layer], "proportion", how) for layer in layers]
        for name in run.variants
        if len(part := frame[frame.variant == name])
    }
