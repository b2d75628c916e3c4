"""Numbers and sentences as a reader wants them, the same in HTML and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from quantxai.records import Finding, Metric, Verdict

__all__ = [
    "SYMBOLS",
    "change",
    "count",
    "detectable",
    "error_kind",
    "estimate",
    "interval",
    "level",
    "listing",
    "margin",
    "metric_label",
    "p_value",
    "perplexity_ratio",
    "significant",
    "width_places",
]

SYMBOLS: dict[Verdict | None, tuple[str, str]] = {
    "degraded": ("✗", "degraded"),
    "improved": ("✓", "improved"),
    "equivalent": ("=", "equivalent"),
    "unresolved": ("?", "unresolved"),
    None: ("·", "descriptive"),
}
"""Symbol and word of every verdict, so that none depends on colour."""

_MINUS, _DASH, _SPACE = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}"


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, plain where plain is readable."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if not -4 <= places <= 6:
        return f"{value:.{digits - 1}e}".replace("-", _MINUS)
    return f"{value:,.{max(places, 0)}f}".replace("-", _MINUS)


def level(value: float | None, unit: str) -> str:
    """Return a metric's value: a proportion in percent, anything else in its own unit."""
    if value is None or math.isnan(value):
        return _DASH
    return f"{100 * value:.1f}{_SPACE}%".replace("-", _MINUS) if unit == "proportion" else significant(value)


def change(value: float | None, unit: str, places: int | None = None) -> str:
    """Return a difference with its sign; differences of proportions in percentage points.

    Args:
        value: the difference.
        unit: the metric's unit.
        places: decimal places; three significant digits where left out.
    """
    if value is None or math.isnan(value):
        return _DASH
    if unit == "proportion":
        value, places = 100 * value, 1
    text = significant(value) if places is None else f"{value:,.{places}f}"
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("-" + _MINUS)
    return ("+" if value > 0 else "") + text.replace("-", _MINUS)


def estimate(finding: Finding) -> str:
    """Return the change a finding is about, `−12.5 pp` or `+0.41`, as precise as its interval."""
    text = change(finding.estimate, finding.unit, _places(finding))
    return f"{text}{_SPACE}pp" if finding.unit == "proportion" and finding.estimate is not None else text


def perplexity_ratio(finding: Finding) -> str:
    """Return what a change of the mean negative log-likelihood does to perplexity, `perplexity × 1.15`."""
    if finding.metric != "nll" or finding.estimate is None:
        return ""
    return f"perplexity × {significant(math.exp(finding.estimate))}"


def interval(finding: Finding) -> str:
    """Return a finding's interval, `[−3.1, +0.4]`."""
    if finding.ci_low is None or finding.ci_high is None:
        return "no interval"
    low, high = (change(end, finding.unit, _places(finding)) for end in (finding.ci_low, finding.ci_high))
    return f"[{low}, {high}]"


def margin(metric: Metric) -> str:
    """Return the margin within which a change counts as none, `±10.0 pp`."""
    return _either_way(f"{metric.margin:g}", metric.margin, metric.unit)


def detectable(finding: Finding) -> str:
    """Return the smallest change that would have been found with 80 % power, `±8.1 pp`."""
    size = finding.minimum_detectable
    if size is None or (finding.kind == "binary" and size > 1):
        return "nothing"
    return _either_way(significant(size), size, finding.unit)


def _either_way(text: str, size: float, unit: str) -> str:
    return f"±{100 * size:.1f}{_SPACE}pp" if unit == "proportion" else f"±{text}"


def width_places(width: float) -> int | None:
    """Return the decimal places that give an interval's width two significant digits; null for a point."""
    return min(max(1 - math.floor(math.log10(width)), 0), 6) if width > 0 else None


def _places(finding: Finding) -> int | None:
    """Return the decimal places that give the interval's width two significant digits."""
    if finding.ci_low is None or finding.ci_high is None:
        return None
    return width_places(finding.ci_high - finding.ci_low)


def p_value(p: float | None) -> str:
    """Return a p-value: three decimals, or below which of them it lies."""
    if p is None:
        return _DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 item`, `12 items`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(parts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def error_kind(message: str, traceback: str) -> str:
    """Return which of quantxai's own errors a failure is, `ModelError`; empty for an unexpected one."""
    found = re.search(rf"^quantxai\.errors\.(\w+): {re.escape(message)}\s*\Z", traceback, re.MULTILINE)
    return found[1] if found else ""


def metric_label(name: str) -> str:
    """Return a metric's name for reading."""
    return name.replace("_", " ")
