"""Numbers and sentences as a reader wants them, the same in HTML and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from quantxai.records import Finding, Verdict

__all__ = [
    "SYMBOLS",
    "answer",
    "change",
    "count",
    "interval",
    "level",
    "listing",
    "metric_label",
    "p_value",
    "significant",
    "variant_sentence",
]

SYMBOLS: dict[Verdict | None, tuple[str, str]] = {
    "degraded": ("✗", "degraded"),
    "improved": ("✓", "improved"),
    "equivalent": ("=", "equivalent"),
    "unresolved": ("?", "unresolved"),
    None: ("·", "descriptive"),
}
"""Symbol and word of every verdict, so that none depends on colour."""

_MINUS, _DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
_SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


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
    return f"{100 * value:.1f} %" if unit == "proportion" else significant(value)


def change(value: float | None, unit: str, *, with_unit: bool = True) -> str:
    """Return a difference with its sign; differences of proportions in percentage points (pp)."""
    if value is None or math.isnan(value):
        return _DASH
    if unit == "proportion":
        text = f"{100 * value:+.1f}" + (" pp" if with_unit else "")
    else:
        text = ("+" if value > 0 else "") + significant(value)
    return text.replace("-", _MINUS)


def interval(low: float | None, high: float | None, unit: str) -> str:
    """Return an interval of a difference, `[−3.1, +0.4]`."""
    if low is None or high is None:
        return "no interval"
    return f"[{change(low, unit, with_unit=False)}, {change(high, unit, with_unit=False)}]"


def p_value(p: float | None) -> str:
    """Return a p-value: three decimals, or below which of them it lies."""
    if p is None:
        return _DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: int, noun: str, *, plural: str = "") -> str:
    """Return a number with its noun: `one item`, `12 items`."""
    word = _SMALL_NUMBERS[number] if 0 <= number < len(_SMALL_NUMBERS) else f"{number:,}"
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def listing(parts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def metric_label(name: str) -> str:
    """Return a metric's name for reading."""
    return name.replace("_", " ")


def answer(findings: Sequence[Finding], variants: Sequence[str]) -> tuple[str, str]:
    """Return the run's answer: one sentence, and what it rests on."""
    judged = [finding for finding in findings if finding.verdict is not None]
    if not judged:
        return "There is no answer yet: nothing has been compared.", ""
    changed = _ordered(variants, [f for f in judged if f.verdict in ("degraded", "improved")])
    worse = _ordered(variants, [f for f in judged if f.verdict == "degraded"])
    tally = Counter(finding.verdict for finding in judged)
    if worse:
        headline = (
            f"Yes: {listing(worse)} explained worse than the unquantized model in at least one respect."
        )
        better = [name for name in changed if name not in worse]
        if better:
            headline = f"{headline[:-1]}, and {listing(better)} better in at least one."
    elif changed:
        headline = f"Yes: {listing(changed)} did better than the unquantized model in at least one respect."
    elif tally["equivalent"] == len(judged):
        headline = "No: every measured change is within the margin set beforehand."
    else:
        headline = "No change could be shown, but not every change could be ruled out either."
    rest = [name for name in variants if name not in changed and any(f.variant == name for f in judged)]
    parts = [f"{number} {verdict}" for verdict in SYMBOLS if verdict and (number := tally[verdict])]
    basis = f"Of {count(len(judged), 'comparison')} with the unquantized model, {listing(parts)}."
    if changed and rest:
        basis += f" For {listing(rest)}, no change beyond chance was found."
    if tally["unresolved"]:
        basis += " Unresolved means that these items cannot tell a change from none, not that there is none."
    return headline, basis


def _ordered(variants: Sequence[str], findings: Sequence[Finding]) -> list[str]:
    found = {finding.variant for finding in findings}
    return [name for name in variants if name in found]


def variant_sentence(variant: str, findings: Sequence[Finding]) -> str:
    """Return one plain sentence about one variant: how often it changed, and where most."""
    judged = [finding for finding in findings if finding.variant == variant and finding.verdict is not None]
    if not judged:
        return "nothing could be compared."
    tally = Counter(finding.verdict for finding in judged)
    parts = []
    for verdict in ("degraded", "improved"):
        chosen = [finding for finding in judged if finding.verdict == verdict]
        if chosen:
            chosen.sort(key=lambda finding: -abs(finding.estimate or 0) / finding.margin)
            most = [
                f"{metric_label(f.metric)} on {f.dataset} {change(f.estimate, f.unit)}" for f in chosen[:3]
            ]
            lead = "above all " if len(chosen) > len(most) else ""
            parts.append(f"{len(chosen)} {verdict} ({lead}{listing(most)})")
    parts += [f"{tally[v]} {v}" for v in ("equivalent", "unresolved") if tally[v]]
    return f"of {count(len(judged), 'comparison')}, {listing(parts)}."
