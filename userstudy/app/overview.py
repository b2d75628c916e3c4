"""What the admin page shows of a study's status, as its template wants it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Engine

from userstudy.analysis.results import Agreement
from userstudy.clock import now
from userstudy.settings import in_language
from userstudy.status import Status, status
from userstudy.study import Study

__all__ = ["overview"]

_SHADES = 5
"""Shades of the heat maps above white."""
_LOWEST_ALPHA = -0.2
"""Where the axis of alpha begins; lower ones are drawn there."""


class _Cell(NamedTuple):
    """One count of a heat map."""

    number: int
    shade: int


class _Interval(NamedTuple):
    """Agreement on one question, drawn from 0 to 100."""

    name: str
    found: Agreement
    at: float | None
    low: float | None
    high: float | None


def overview(study: Study, engine: Engine) -> dict[str, Any]:
    """Return how a study stands, with what is drawn of it.

    Args:
        study: whose.
        engine: its database.

    Raises:
        StudyError: the database cannot be reached.
    """
    found = status(study, engine)
    variants = [
        variant for variant in study.design.variants if any(c.variant == variant for c in found.cells)
    ]
    stopped = sum(entry.participants for entry in found.drop_out)
    checks = sum(person.attention_seen for person in found.people)
    return {
        "status": found,
        "at": now().strftime("%H:%M:%S"),
        "done_share": min(100.0, 100 * found.completed / found.wanted),
        "variants": variants,
        "items": _items(found, variants),
        "forms": list(zip(found.forms, _shaded(form.completed for form in found.forms), strict=True)),
        "drop_out": [(entry, 100 * entry.participants / stopped) for entry in found.drop_out],
        "agreement": [_drawn(study, entry) for entry in found.agreement],
        "zero": _place(0.0),
        "checks": checks,
        "failed": sum(person.attention_failed for person in found.people),
        "failing": sum(person.attention_failed > 0 for person in found.people),
    }


def _items(found: Status, variants: list[str]) -> list[tuple[str, list[_Cell | None]]]:
    """Return the heat map: an item a row, a variant a column; None where no form shows the one with the other."""
    cells = dict(
        zip([(c.item, c.variant) for c in found.cells], _shaded(c.ratings for c in found.cells), strict=True)
    )
    items = dict.fromkeys(cell.item for cell in found.cells)
    return [(item, [cells.get((item, variant)) for variant in variants]) for item in sorted(items)]


def _shaded(counts: Iterable[int]) -> list[_Cell]:
    listed = list(counts)
    most = max([*listed, 1])
    return [_Cell(count, -(-count * _SHADES // most)) for count in listed]


def _drawn(study: Study, found: Agreement) -> _Interval:
    name = "All scales together"
    if found.question is not None:
        name = in_language(study.settings.question(found.question).text, study.settings.languages[0])
    return _Interval(name, found, *(_place(value) for value in (found.alpha, found.ci_low, found.ci_high)))


def _place(value: float | None) -> float | None:
    return (
        None
        if value is None
        else round(100 * (max(value, _LOWEST_ALPHA) - _LOWEST_ALPHA) / (1 - _LOWEST_ALPHA), 2)
    )
