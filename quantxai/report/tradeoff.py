"""How often edits flip the label against how much of the text they change, as one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from quantxai.records import Metric
from quantxai.report.plots import SHAPES, Point, shape, ticks
from quantxai.report.text import count, level, metric_label
from quantxai.statistics import clopper_pearson, cluster_bootstrap

__all__ = ["Place", "places", "tradeoff"]

VALIDITY = ("parent_soft_flip", "parent_hard_flip")
"""Up: share of flips. A common judge makes variants comparable."""
MINIMALITY = ("edit_distance_normalized", "edit_distance_relative", "edit_distance")
"""Along: how much is changed."""

WIDTH, HEIGHT = 620, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 14, 46
_LETTER, _LINE = 6.6, 13.0
"""Room that a letter and a line of a label take, picture units."""


@dataclass(frozen=True)
class Place:
    """One variant's mean of one metric over its own items, with the interval of that mean."""

    value: float
    low: float
    high: float
    n: int


def tradeoff(
    measurements: pd.DataFrame,
    metrics: Iterable[Metric],
    points: Sequence[Point],
    parent: str,
    analysis: Mapping[str, Any],
) -> Markup:
    """Return the picture: every variant and the parent with their own means and intervals.

    Args:
        measurements: those of one explainer on one data set that have a value.
        metrics: what they are about.
        points: the variants.
        parent: name of the parent.
        analysis: alpha (1 - the intervals' level) and resamples of the bootstrap.

    Returns:
        Nothing where no variant has both flips and sizes of edits.
    """
    measured = set(measurements.metric)
    known = {metric.name: metric for metric in metrics if metric.name in measured}
    names = [next((name for name in wanted if name in known), None) for wanted in (MINIMALITY, VALIDITY)]
    if None in names:
        return Markup("")
    of_x, of_y = (known[str(name)] for name in names)
    alpha, resamples = float(analysis.get("alpha", 0.05)), int(analysis.get("resamples", 10_000))
    along, up = (places(measurements, metric, alpha, resamples) for metric in (of_x, of_y))
    every = [Point(parent, None, "", 0), *points]
    shown = [point for point in every if point.variant in along and point.variant in up]
    if not any(point.variant != parent for point in shown):
        return Markup("")
    x = _Axis([along[p.variant] for p in shown], LEFT, WIDTH - RIGHT, of_x.unit)
    y = _Axis([up[p.variant] for p in shown], HEIGHT - BOTTOM, TOP, of_y.unit)
    spots = [(x(along[p.variant].value), y(up[p.variant].value)) for p in shown]
    body = [*_grid(x, y), *_names(metric_label(of_x.name), metric_label(of_y.name))]
    for point, spot in zip(shown, spots, strict=True):
        own = (along[point.variant], up[point.variant])
        told = f"{point.variant}: {_told(own[1], of_y, 'item')}; {_told(own[0], of_x, 'edit')}"
        drawn = _parent(spot) if point.variant == parent else shape(point.style, *spot)
        style = "parent" if point.variant == parent else f"s{point.style % len(SHAPES)} shown"
        body.append(
            Markup('<g class="{}"><title>{}</title>{}{}</g>').format(
                style, told, _whiskers(x, y, own, spot), drawn
            )
        )
    body += _labels([point.variant for point in shown], spots)
    return Markup('<svg class="wide" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{metric_label(of_y.name)} against {metric_label(of_x.name)}", Markup("").join(body)
    )


def places(
    measurements: pd.DataFrame, metric: Metric, alpha: float = 0.05, resamples: int = 10_000
) -> dict[str, Place]:
    """Return each variant's mean of a metric over the items it has a value for, with its interval.

    The interval of a share is exact (Clopper and Pearson 1934) and takes items as independent; that of any other
    mean is a cluster bootstrap; with
    too few groups for one, it is the mean alone.
    """
    found = {}
    for variant, part in measurements[measurements.metric == metric.name].groupby("variant", sort=False):
        values, n = part["value"].to_numpy(float), len(part)
        if metric.kind == "binary":
            interval = clopper_pearson(int(values.sum()), n, 1 - alpha)
        else:
            rng = np.random.default_rng(0)  # the same picture at each call
            interval = cluster_bootstrap(values, part["group"].to_numpy(str), resamples, rng, 1 - alpha)
        mean = float(values.mean())
        low, high = interval or (mean, mean)
        found[str(variant)] = Place(mean, min(low, mean), max(high, mean), n)
    return found


class _Axis:
    """From values to picture units."""

    def __init__(self, found: Sequence[Place], start: float, end: float, unit: str) -> None:
        marks = ticks(max(min(place.low for place in found), 0.0), max(place.high for place in found))
        self.marks = [mark for mark in marks if mark >= 0]
        self._start, self._end, self.unit = start, end, unit

    def __call__(self, value: float) -> float:
        low, high = self.marks[0], self.marks[-1]
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self._start + share * (self._end - self._start), 1)

    def text(self, mark: float) -> str:
        return f"{100 * mark:.10g} %" if self.unit == "proportion" else f"{mark:.10g}"


def _told(place: Place, metric: Metric, noun: str) -> str:
    ends = f"{level(place.low, metric.unit)} to {level(place.high, metric.unit)}"
    return f"{metric_label(metric.name)} {level(place.value, metric.unit)} ({ends}), {count(place.n, noun)}"


def _grid(x: _Axis, y: _Axis) -> list[Markup]:
    base = HEIGHT - BOTTOM
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    across = [line.format(LEFT, WIDTH - RIGHT, y(mark), y(mark)) for mark in y.marks]
    upright = [line.format(x(mark), x(mark), TOP, base) for mark in x.marks]
    number = Markup('<text class="{}" x="{}" y="{}">{}</text>')
    beside = [number.format("num", LEFT - 6, y(mark) + 3.5, y.text(mark)) for mark in y.marks]
    below = [number.format("bits", x(mark), base + 15, x.text(mark)) for mark in x.marks]
    return [*across, *upright, *beside, *below]


def _names(along: str, up: str) -> list[Markup]:
    return [
        Markup('<text class="bits" x="{}" y="{}">{} →</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, along
        ),
        Markup('<text class="bits" transform="translate(12 {}) rotate(-90)">{} →</text>').format(
            (TOP + HEIGHT - BOTTOM) / 2, up
        ),
    ]


def _parent(spot: tuple[float, float]) -> Markup:
    return Markup('<circle cx="{}" cy="{}" r="7"/><circle class="inner" cx="{}" cy="{}" r="3"/>').format(
        *spot, *spot
    )


def _whiskers(x: _Axis, y: _Axis, own: tuple[Place, Place], spot: tuple[float, float]) -> Markup:
    line = Markup('<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    along, up = own
    return line.format(x(along.low), x(along.high), spot[1], spot[1]) + line.format(
        spot[0], spot[0], y(up.low), y(up.high)
    )


_Box = tuple[float, float, float, float]


def _labels(names: Sequence[str], spots: Sequence[tuple[float, float]]) -> list[Markup]:
    """Put each name beside its marker, where it covers no marker and no other name if that can be."""
    taken: list[_Box] = [(cx - 6, cy - 6, cx + 6, cy + 6) for cx, cy in spots]
    parts = []
    for name, (cx, cy) in zip(names, spots, strict=True):
        width = _LETTER * len(name)
        corners = [
            (cx + dx if dx > 0 else cx + dx - width, cy + dy)
            for dx, dy in ((9, -7), (9, 16), (-9, -7), (-9, 16), (9, -21), (9, 30), (-9, -21), (-9, 30))
        ]
        boxes = [(left, base - _LINE + 3, left + width, base + 3) for left, base in corners]
        box = min(boxes, key=lambda box: _covered(box, taken))
        taken.append(box)
        parts.append(
            Markup('<text class="label" x="{:.1f}" y="{:.1f}">{}</text>').format(box[0], box[3] - 3, name)
        )
    return parts


def _covered(box: _Box, taken: Sequence[_Box]) -> float:
    """The area that others cover, and much more for what lies outside the picture."""
    left, top, right, bottom = box
    outside = (
        max(LEFT - left, 0) + max(right - WIDTH, 0) + max(TOP - top, 0) + max(bottom - HEIGHT + BOTTOM, 0)
    )
    shared = sum(
        max(min(right, r) - max(left, a), 0) * max(min(bottom, d) - max(top, b), 0) for a, b, r, d in taken
    )
    return shared + 1e3 * outside
