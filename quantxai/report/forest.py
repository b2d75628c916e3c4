"""Forest plots as inline SVG: every variant's change with its interval, against none and the margin."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from markupsafe import Markup

from quantxai.records import Finding
from quantxai.report.plots import ticks
from quantxai.report.text import SYMBOLS, estimate, interval

__all__ = ["forest"]

WIDTH, ROW = 540, 22
LEFT, RIGHT, TOP, BOTTOM = 104, 176, 8, 36
_LONGEST_NAME = 15
_LETTER = 7.0
"""About the width of a letter of the values."""


def forest(findings: Sequence[Finding], controls: Collection[str], title: str) -> Markup:
    """Return one outcome's forest plot; empty without anything to draw.

    Args:
        findings: one for each variant, in the order of lines; those without an estimate are left out.
        controls: variants drawn as controls.
        title: for readers who hear the picture; the values follow it.
    """
    drawn = [finding for finding in findings if finding.estimate is not None]
    if not drawn:
        return Markup("")
    margin = drawn[0].margin if drawn[0].higher_is_better is not None else 0.0
    marks = _marks(drawn, margin)
    longest = max(len(_value(finding)) for finding in drawn)
    scale = _Scale(marks[0], marks[-1], len(drawn), WIDTH - max(RIGHT, round(_LETTER * longest) + 10))
    body = [
        _band(scale, margin),
        *(_tick(scale, mark, drawn[0].unit) for mark in marks),
        _zero(scale),
        *_directions(scale, drawn[0].higher_is_better),
        *(_line(scale, place, finding, finding.variant in controls) for place, finding in enumerate(drawn)),
    ]
    told = "; ".join(f"{f.variant} {estimate(f)} {interval(f)} {SYMBOLS[f.verdict][1]}" for f in drawn)
    return Markup('<svg class="forest" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, scale.height, f"{title}: {told}", Markup("").join(body)
    )


def _marks(findings: Sequence[Finding], margin: float) -> list[float]:
    ends = [0.0, -margin, margin]
    for finding in findings:
        ends += [v for v in (finding.estimate, finding.ci_low, finding.ci_high) if v is not None]
    return ticks(min(ends), max(ends))


class _Scale:
    """From differences and lines to picture units."""

    def __init__(self, low: float, high: float, lines: int, right: int) -> None:
        self.low, self.high, self.right = low, high, right
        self.bottom = TOP + ROW * lines
        self.height = self.bottom + BOTTOM

    def x(self, value: float) -> float:
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(LEFT + share * (self.right - LEFT), 1)

    def y(self, line: int) -> float:
        return TOP + ROW * (line + 0.5)


def _band(scale: _Scale, margin: float) -> Markup:
    left, right = scale.x(-margin), scale.x(margin)
    return Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>').format(
        left, TOP, round(right - left, 1), scale.bottom - TOP
    )


def _tick(scale: _Scale, mark: float, unit: str) -> Markup:
    text = f"{100 * mark if unit == 'proportion' else mark:+.10g}" if mark else "0"
    return Markup(
        '<line class="grid" x1="{x}" x2="{x}" y1="{}" y2="{}"/><text class="bits" x="{x}" y="{}">{}</text>'
    ).format(
        scale.bottom,
        scale.bottom + 4,
        scale.bottom + 15,
        text.replace("-", "\N{MINUS SIGN}"),
        x=scale.x(mark),
    )


def _zero(scale: _Scale) -> Markup:
    return Markup('<line class="ref" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
        TOP - 4, scale.bottom + 4, x=scale.x(0)
    )


def _directions(scale: _Scale, higher_is_better: bool | None) -> list[Markup]:
    if higher_is_better is None:
        return []
    left, right = ("worse", "better") if higher_is_better else ("better", "worse")
    text = Markup('<text class="{}" x="{}" y="{}">{}</text>')
    base = scale.bottom + 29
    return [
        text.format("begin", LEFT, base, f"← {left}"),
        text.format("num", scale.right, base, f"{right} →"),
    ]


def _line(scale: _Scale, place: int, finding: Finding, control: bool) -> Markup:
    y, x = scale.y(place), scale.x(finding.estimate or 0)
    whisker = Markup("")
    if finding.ci_low is not None and finding.ci_high is not None:
        whisker = Markup('<line class="whisker" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
            scale.x(finding.ci_low), scale.x(finding.ci_high), y=y
        )
    word = SYMBOLS[finding.verdict][1]
    name = finding.variant
    short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return Markup(
        '<g class="{}"><title>{}</title>{}{}<text class="name" x="{}" y="{y}">{}</text>'
        '<text class="begin value" x="{}" y="{y}">{}</text></g>'
    ).format(
        f"line {'control' if control else word}",
        f"{name}: {estimate(finding)} {interval(finding)}, {word}",
        whisker,
        _marker(x, y, control),
        LEFT - 8,
        short,
        scale.right + 10,
        _value(finding),
        y=y + 4,
    )


def _value(finding: Finding) -> str:
    return f"{SYMBOLS[finding.verdict][0]} {estimate(finding)} {interval(finding)}"


def _marker(x: float, y: float, control: bool) -> Markup:
    """A square, or for a control an open circle."""
    if control:
        return Markup('<circle cx="{}" cy="{}" r="3.6"/>').format(x, y)
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="8" height="8"/>').format(x - 4, y - 4)
