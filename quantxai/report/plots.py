"""Small multiples over bits as inline SVG: nothing is loaded, and the page's colours apply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from quantxai.records import Finding
from quantxai.report.text import estimate, interval, level, metric_label

__all__ = ["SHAPES", "Point", "legend", "panel", "shape", "ticks"]

WIDTH, HEIGHT = 300, 226
LEFT, RIGHT, TOP, BOTTOM = 46, 6, 10, 66
SHAPES = ("circle", "square", "triangle", "diamond", "star", "down")


@dataclass(frozen=True)
class Point:
    """One variant's place on the axis of bits.

    Attributes:
        variant: its name.
        bits: nominal bits per quantized weight; None where no receipt says.
        method: the quantizer's name.
        style: number of the method's shape and colour.
    """

    variant: str
    bits: float | None
    method: str
    style: int


def panel(
    points: Sequence[Point],
    findings: Sequence[Finding],
    title: str,
    controls: Mapping[str | None, Sequence[str]] | None = None,
) -> Markup:
    """Return one metric of one data set: the parent as a line, every variant with its interval.

    A marker is at the parent's mean plus the paired difference, its whisker is the difference's
    interval put there: it misses the line exactly where the interval excludes no change.

    Args:
        points: the variants, fewest bits first.
        findings: one per variant and control at most.
        title: for readers who hear the picture.
        controls: names of controls by the variant they stand beside; those of the parent, under None, get a
            place of their own.
    """
    beside = controls or {}
    by_variant = {f.variant: f for f in findings if f.estimate is not None and f.reference_mean is not None}
    if not any(point.variant in by_variant for point in points):
        return Markup("")
    slots = [*points, *([Point("", None, "control", -1)] if beside.get(None) else [])]
    widest = max(by_variant.values(), key=lambda f: f.n)
    reference = widest.reference_mean or 0.0
    margin = widest.margin if widest.higher_is_better is not None else 0.0
    ends = [reference, reference - margin, reference + margin]
    for finding in by_variant.values():
        known = (finding.estimate, finding.ci_low, finding.ci_high)
        ends += [reference + value for value in known if value is not None]
    # A share lies between 0 and 1, whatever a margin or an interval of differences adds to it.
    least, most = (0.0, 1.0) if widest.kind == "binary" else (-math.inf, math.inf)
    marks = [mark for mark in ticks(max(min(ends), least), min(max(ends), most)) if least <= mark <= most]
    scale = _Scale(marks[0], marks[-1], len(slots))
    body = [
        _band(scale, reference, margin),
        *(_tick(scale, mark, widest.unit) for mark in marks),
        _line(scale, reference),
        *_axis(scale, slots),
        *(
            _control(scale, slot, by_variant[name], reference)
            for i, p in enumerate(slots)
            for name, slot in _places(beside.get(p.variant or None, ()), i, bool(p.variant))
            if name in by_variant
        ),
        *(
            _mark(scale, i, p, by_variant[p.variant], reference)
            for i, p in enumerate(points)
            if p.variant in by_variant
        ),
    ]
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(body)
    )


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers that span the range."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


class _Scale:
    """From values and slots to picture units; what lies outside is put on the edge."""

    def __init__(self, low: float, high: float, slots: int) -> None:
        self.low, self.high, self.slots = low, high, max(slots, 1)

    def y(self, value: float) -> float:
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    def x(self, slot: float) -> float:
        return round(LEFT + (slot + 0.5) * (WIDTH - LEFT - RIGHT) / self.slots, 1)


def _band(scale: _Scale, reference: float, margin: float) -> Markup:
    top, bottom = scale.y(reference + margin), scale.y(reference - margin)
    return Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>').format(
        LEFT, top, WIDTH - LEFT - RIGHT, round(bottom - top, 1)
    )


def _line(scale: _Scale, reference: float) -> Markup:
    return Markup('<line class="ref" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
        LEFT, WIDTH - RIGHT, y=scale.y(reference)
    )


def _tick(scale: _Scale, value: float, unit: str) -> Markup:
    text = f"{100 * value:.10g} %" if unit == "proportion" else f"{value:.10g}"
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="num" x="{}" y="{}">{}</text>'
    ).format(
        LEFT,
        WIDTH - RIGHT,
        LEFT - 5,
        scale.y(value) + 3.5,
        text.replace("-", "\N{MINUS SIGN}"),
        y=scale.y(value),
    )


def _axis(scale: _Scale, points: Sequence[Point]) -> list[Markup]:
    """Return the names under the slots, and the bits under brackets that join equal ones."""
    base = HEIGHT - BOTTOM
    parts = [
        Markup('<text class="name" transform="translate({} {}) rotate(-32)">{}</text>').format(
            scale.x(index) + 4, base + 13, point.variant or "controls"
        )
        for index, point in enumerate(points)
    ]
    start = 0
    for index in range(1, len(points) + 1):
        if index < len(points) and _bits(points[index]) == _bits(points[start]):
            continue
        if not points[start].variant:
            break
        left, right = scale.x(start - 0.4), scale.x(index - 1 + 0.4)
        parts.append(
            Markup('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
                left, right, y=HEIGHT - 16
            )
        )
        parts.append(
            Markup('<text class="bits" x="{}" y="{}">{}</text>').format(
                round((left + right) / 2, 1), HEIGHT - 4, _bits(points[start])
            )
        )
        start = index
    return parts


def _bits(point: Point) -> str:
    if not point.variant:
        return ""
    return "?" if point.bits is None else f"{point.bits:g} bit"


def _places(names: Sequence[str], slot: int, beside: bool) -> list[tuple[str, float]]:
    """Return where controls stand: spread to the right of a variant's marker, or over a place of their own."""
    start, width = (slot + 0.2, 0.28) if beside else (slot - 0.3, 0.6)
    step = width / max(len(names), 1)
    return [(name, start + step * (place + 0.5)) for place, name in enumerate(names)]


def _control(scale: _Scale, slot: float, finding: Finding, reference: float) -> Markup:
    """Return a control: small, open and grey, with a thin whisker."""
    x, y = scale.x(slot), scale.y(reference + (finding.estimate or 0))
    whisker = Markup("")
    if finding.ci_low is not None and finding.ci_high is not None:
        whisker = Markup('<line class="whisker" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
            scale.y(reference + finding.ci_low), scale.y(reference + finding.ci_high), x=x
        )
    told = f"{finding.variant}, a control: {estimate(finding)} {interval(finding)}"
    return Markup('<g class="null"><title>{}</title>{}<circle cx="{}" cy="{}" r="2.8"/></g>').format(
        told, whisker, x, y
    )


def _mark(scale: _Scale, slot: int, point: Point, finding: Finding, reference: float) -> Markup:
    x, y = scale.x(slot), scale.y(reference + (finding.estimate or 0))
    whisker = Markup("")
    if finding.ci_low is not None and finding.ci_high is not None:
        whisker = Markup('<line class="whisker" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
            scale.y(reference + finding.ci_low), scale.y(reference + finding.ci_high), x=x
        )
    shown = "shown" if finding.verdict in ("degraded", "improved") else "open"
    told = (
        f"{point.variant}: {metric_label(finding.metric)} {level(finding.variant_mean, finding.unit)}, "
        f"{estimate(finding)} {interval(finding)}, {finding.verdict or 'descriptive'}"
    )
    return Markup('<g class="s{} {}"><title>{}</title>{}{}</g>').format(
        point.style % len(SHAPES), shown, told, whisker, shape(point.style, x, y)
    )


def shape(style: int, x: float, y: float) -> Markup:
    """Return a method's marker at a place, picture units."""
    name = SHAPES[style % len(SHAPES)]
    if name == "circle":
        return Markup('<circle cx="{}" cy="{}" r="4.5"/>').format(x, y)
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5.5), (5, 4), (-5, 4)),
        "diamond": ((0, -5.8), (5.8, 0), (0, 5.8), (-5.8, 0)),
        "down": ((0, 5.5), (5, -4), (-5, -4)),
        "star": tuple(
            (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5))
            for i, r in enumerate([6.5, 2.8] * 5)
        ),
    }[name]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return Markup('<polygon points="{}"/>').format(path)


def legend(points: Sequence[Point]) -> Markup:
    """Return the methods with their shapes, as list items."""
    methods = dict(sorted({point.style: point.method for point in points}.items()))
    return Markup("").join(
        Markup(
            '<li><svg class="key s{} shown" viewBox="0 0 14 14" aria-hidden="true">{}</svg>{}</li>'
        ).format(style % len(SHAPES), shape(style, 7, 7), escape(method))
        for style, method in methods.items()
    )
