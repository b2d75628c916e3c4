"""Rows that hold a number for each layer, by variant and item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows", "Table", "by_layer", "layer_means", "problems"]

Rows = Sequence[Mapping[str, Any]]
Table = dict[str, NDArray[np.float64]]
"""A number for each layer, by item."""


def by_layer(rows: Rows, column: str) -> dict[str, Table]:
    """Return a list column by variant and item.

    Means are taken layer by layer, so lists of another length than most rows' are left out; empty ones are
    no values.

    Args:
        rows: of one explainer on one data set.
        column: its name; rows may lack it.
    """
    listed = [
        (
            str(row["variant"]),
            str(row["item"]),
            np.array([np.nan if v is None else v for v in row[column]], float),
        )
        for row in rows
        if row.get(column) is not None and len(row[column])
    ]
    if not listed:
        return {}
    ((length, _),) = Counter(len(values) for _, _, values in listed).most_common(1)
    found: dict[str, Table] = {}
    for variant, item, values in listed:
        if len(values) == length:
            found.setdefault(variant, {})[item] = values
    return found


def layer_means(table: Table, items: Iterable[str]) -> list[float]:
    """Return the mean of each layer over some items; nan where one has none."""
    values = np.array([table[item] for item in items])
    finite = np.isfinite(values)
    # An item of a broken variant has no value at a layer; it does not take those of the others away.
    number = finite.sum(0)
    total = np.where(finite, values, 0.0).sum(0)
    return [float(t / n) if n else float("nan") for t, n in zip(total, number, strict=True)]


def problems(rows: Rows, variants: Sequence[str]) -> list[tuple[int, int, list[str]]]:
    """Return of how many items nothing could be measured, of how many, for which variants; none is left out."""
    asked = Counter(str(row["variant"]) for row in rows)
    failed = Counter(str(row["variant"]) for row in rows if row.get("problem") is not None)
    found: dict[tuple[int, int], list[str]] = {}
    for name in variants:
        if failed[name]:
            found.setdefault((failed[name], asked[name]), []).append(name)
    return [(*numbers, names) for numbers, names in found.items()]
