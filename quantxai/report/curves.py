"""Curves over the layers of a model as inline SVG: told apart by line and marker, not by colour alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from quantxai.report.plots import ticks
from quantxai.report.text import significant

__all__ = ["Curve", "axis", "curves", "key", "row_of_keys"]

WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 42, 8, 10, 32
_MOST_MARKERS = 16
"""Markers on a curve; with more layers every other one, or fewer, gets one."""
_MOST_NUMBERS = 7
"""Layers with a number below them, about."""
_MARKERS = {"own": "circle", "entity": "square", "relation": "triangle"}
"""Which kinds of curves have markers; the line's own pattern is in the style sheet."""


@dataclass(frozen=True)
class Curve:
    """One line of a picture.

    Attributes:
        name: for the legend and for readers who point at it.
        kind: parent, control, own, entity or relation: its class in the style sheet.
        values: one per layer from layer 0; nan leaves a gap.
        band: its interval, low and high likewise; null without one.
    """

    name: str
    kind: str
    values: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


def axis(found: Iterable[Curve], least: float = math.inf, most: float = -math.inf) -> list[float]:
    """Return round numbers that span all curves, and from `least` to `most`, for pictures to share."""
    listed = [values for curve in found for values in (curve.values, *(curve.band or ()))]
    ends = [value for values in (*listed, (least, most)) for value in values if math.isfinite(value)]
    return ticks(min(ends), max(ends)) if ends else []


def curves(found: Sequence[Curve], marks: Sequence[float], title: str, layers: int, unit: str = "") -> Markup:
    """Return one picture.

    Args:
        found: the curves, those behind first.
        marks: numbers on the axis; see `axis`.
        title: for readers who hear the picture.
        layers: how many places there are along the axis.
        unit: of the values; a proportion is shown in percent.
    """
    if len(marks) < 2 or layers < 1:
        return Markup("")
    scale = _Scale(marks[0], marks[-1], layers)
    body = [
        *_grid(scale, marks, unit),
        *_numbers(scale),
        *(part for curve in found for part in _drawn(scale, curve)),
        *_told(scale, found, unit),
    ]
    return Markup('<svg class="curves" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(body)
    )


def key(kind: str) -> Markup:
    """Return a kind's line and marker, for a legend."""
    marker = _marker(kind, 13, 7) if kind in _MARKERS else Markup("")
    return Markup(
        '<svg class="key line" viewBox="0 0 26 14" aria-hidden="true"><g class="{}">'
        '<path d="M1 7H25"/>{}</g></svg>'
    ).format(kind, marker)


def row_of_keys(names: Sequence[tuple[str, str]]) -> Markup:
    """Return the items of a legend, (kind, name)."""
    return Markup("").join(Markup("<li>{}{}</li>").format(key(kind), name) for kind, name in names)


class _Scale:
    """From layers and values to picture units; what lies outside is put on the edge."""

    def __init__(self, low: float, high: float, layers: int) -> None:
        self.low, self.high, self.layers = low, high, layers

    def x(self, layer: float) -> float:
        return round(LEFT + (layer + 0.5) * (WIDTH - LEFT - RIGHT) / self.layers, 1)

    def y(self, value: float) -> float:
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def _grid(scale: _Scale, marks: Sequence[float], unit: str) -> list[Markup]:
    line = Markup(
        '<line class="{}" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="num" x="{}" y="{}">{}</text>'
    )
    return [
        line.format(
            "zero" if mark == 0 else "grid",
            LEFT,
            WIDTH - RIGHT,
            LEFT - 5,
            scale.y(mark) + 3.5,
            _number(mark, unit),
            y=scale.y(mark),
        )
        for mark in marks
    ]


def _number(value: float, unit: str) -> str:
    text = f"{100 * value:.10g} %" if unit == "proportion" else f"{value:.10g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _numbers(scale: _Scale) -> list[Markup]:
    """The layers' numbers, at round places."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, scale.layers) if scale.layers / s <= _MOST_NUMBERS)
    shown = [
        Markup('<text class="bits" x="{}" y="{}">{}</text>').format(scale.x(n), HEIGHT - BOTTOM + 14, n)
        for n in range(0, scale.layers, step)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*shown, Markup('<text class="bits" x="{}" y="{}">layer</text>').format(middle, HEIGHT - 4)]


def _drawn(scale: _Scale, curve: Curve) -> list[Markup]:
    path, pen = [], "M"
    for layer, value in enumerate(curve.values):
        if not math.isfinite(value):
            pen = "M"
            continue
        path.append(f"{pen}{scale.x(layer)} {scale.y(value)}")
        pen = "L"
    if not path:
        return []
    every = max(1, math.ceil(len(curve.values) / _MOST_MARKERS))
    markers = [
        _marker(curve.kind, scale.x(layer), scale.y(value))
        for layer, value in enumerate(curve.values)
        # Not all kinds at the same layers, where they would cover each other.
        if math.isfinite(value) and layer % every == _offset(curve.kind) % every
    ]
    body = Markup("").join(markers) if curve.kind in _MARKERS else Markup("")
    return [
        Markup('<g class="{}">{}<path d="{}"/>{}</g>').format(
            curve.kind, _band(scale, curve), "".join(path), body
        )
    ]


def _band(scale: _Scale, curve: Curve) -> Markup:
    if curve.band is None or not all(math.isfinite(end) for ends in curve.band for end in ends):
        return Markup("")
    low, high = ([f"{scale.x(n)},{scale.y(v)}" for n, v in enumerate(ends)] for ends in curve.band)
    return Markup('<polygon class="ribbon" points="{}"/>').format(" ".join([*high, *reversed(low)]))


def _offset(kind: str) -> int:
    return list(_MARKERS).index(kind) if kind in _MARKERS else 0


def _marker(kind: str, x: float, y: float) -> Markup:
    shape = _MARKERS.get(kind)
    if shape == "circle":
        return Markup('<circle cx="{}" cy="{}" r="2.4"/>').format(x, y)
    if shape == "square":
        return Markup('<rect x="{:.1f}" y="{:.1f}" width="5" height="5"/>').format(x - 2.5, y - 2.5)
    return Markup('<polygon points="{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}"/>').format(
        x, y - 3, x + 3, y + 2.4, x - 3, y + 2.4
    )


def _told(scale: _Scale, found: Sequence[Curve], unit: str) -> list[Markup]:
    """A strip over each layer that tells its numbers to readers who point at it."""
    width = round((WIDTH - LEFT - RIGHT) / scale.layers, 2)
    strips = []
    for layer in range(scale.layers):
        told = [
            f"{curve.name} {_value(curve.values[layer], unit)}"
            for curve in found
            if layer < len(curve.values) and math.isfinite(curve.values[layer])
        ]
        if told:
            strips.append(
                Markup(
                    '<rect class="hit" x="{:.1f}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                ).format(
                    scale.x(layer) - width / 2,
                    TOP,
                    width,
                    HEIGHT - TOP - BOTTOM,
                    f"layer {layer}: {', '.join(told)}",
                )
            )
    return strips


def _value(value: float, unit: str) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%" if unit == "proportion" else significant(value)
