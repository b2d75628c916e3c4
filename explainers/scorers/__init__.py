"""Scorers: turn stored rows into measurements, one file per family of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from quantxai.records import Row

__all__ = ["rows_of"]

R = TypeVar("R", bound=Row)


def rows_of(rows: Sequence[Row], kind: type[R]) -> list[R]:
    """Return the rows as the record the scorer reads.

    Raises:
        TypeError: a row is of another record, so that scorer and explainer do not belong together.
    """
    found = [row for row in rows if isinstance(row, kind)]
    if len(found) < len(rows):
        other = next(type(row).__name__ for row in rows if not isinstance(row, kind))
        raise TypeError(f"expected rows of {kind.__name__}, found {other}")
    return found
