"""How often each answer was given, as stacked bars in inline SVG, one for each variant."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from userstudy.analysis.describe import answer_values
from userstudy.analysis.results import Descriptive
from userstudy.settings import Question

__all__ = ["bars", "steps"]

WIDTH, ROW, LEFT, RIGHT, BAR = 540, 26, 104, 60, 17
_LONGEST_NAME = 15
_NARROWEST = 16.0
"""Picture units that a number needs."""


def steps(question: Question) -> list[str]:
    """Return the answers in order, the lowest first."""
    return list(answer_values(question))


def bars(descriptives: Sequence[Descriptive], question: Question) -> Markup:
    """Return the picture of one question; empty without answers.

    Args:
        descriptives: one for each variant, in the order of lines.
        question: what was asked.
    """
    drawn = [found for found in descriptives if found.n]
    if not drawn:
        return Markup("")
    answers = steps(question)
    worst_first = question.higher_is_better or question.kind != "likert"
    rows = [_row(place, found, answers, worst_first=worst_first) for place, found in enumerate(drawn)]
    told = "; ".join(f"{f.variant}: {_shares(f, answers)}" for f in drawn)
    return Markup('<svg class="bars" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, ROW * len(drawn) + 4, f"Answers to {question.id}: {told}", Markup("").join(rows)
    )


def _shares(found: Descriptive, answers: Sequence[str]) -> str:
    total = sum(found.counts.get(answer, 0) for answer in answers) or 1
    return ", ".join(f"{answer} {100 * found.counts.get(answer, 0) / total:.0f} %" for answer in answers)


def _row(place: int, found: Descriptive, answers: Sequence[str], *, worst_first: bool) -> Markup:
    top, total = ROW * place + 4, sum(found.counts.get(answer, 0) for answer in answers) or 1
    across, start, parts = WIDTH - LEFT - RIGHT, float(LEFT), []
    for step, answer in enumerate(answers):
        number = found.counts.get(answer, 0)
        width = across * number / total
        if number:
            tone = _tone(step if worst_first else len(answers) - 1 - step, len(answers))
            parts.append(_part(start, top, width, tone, f"{answer}: {number} of {total}"))
            if width >= _NARROWEST:
                parts.append(_number(start + width / 2, top, answer if answer.isdigit() else str(number)))
        start += width
    short = found.variant
    short = short if len(short) <= _LONGEST_NAME else short[: _LONGEST_NAME - 1] + "…"
    name = Markup('<text class="name" x="{}" y="{}">{}</text>').format(LEFT - 8, top + BAR - 4, short)
    mean = Markup('<text class="begin value" x="{}" y="{}">{}</text>').format(
        WIDTH - RIGHT + 10, top + BAR - 4, "" if found.mean is None else f"{found.mean:.2f}"
    )
    return name + Markup("").join(parts) + mean


def _part(x: float, y: int, width: float, tone: str, told: str) -> Markup:
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
    ).format(tone, x, y, width, BAR, told)


def _number(x: float, y: int, text: str) -> Markup:
    return Markup('<text class="bits" x="{:.1f}" y="{}">{}</text>').format(x, y + BAR - 4.5, text)


def _tone(step: int, of: int) -> str:
    """Return the colour of an answer, counted from the worst: from worse-3 over even to better-3, evenly."""
    middle = (of - 1) / 2
    away = round(3 * (step - middle) / middle) if middle else 0
    return "even" if not away else f"{'better' if away > 0 else 'worse'}-{abs(away)}"
