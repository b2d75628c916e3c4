"""Measurements put side by side: one variant and its reference on one metric, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai.errors import InputError
from quantxai.records import Measurement, Metric

__all__ = ["SERIES", "Pair", "Series", "make_pairs", "series_of"]

Floats = NDArray[np.float64]
Series = tuple[str, str, str, str]
SERIES = ["explainer", "dataset", "scorer", "metric"]
"""What names a metric on one explainer's rows over one data set."""


@dataclass(frozen=True)
class Pair:
    """One variant and its reference on one metric of one data set, items in sorted order.

    Attributes:
        series: explainer, data set, scorer and metric.
        variant: who is compared.
        reference: with whom.
        metric: what is measured.
        before: the reference's values, of the items that have both.
        after: the variant's.
        groups: the items' groups.
        all_groups: sorted names of all groups of the series.
        missing: items without a value on at least one side.
        bounds: the mean difference over all items, missing values as low, and as high, as any seen.
    """

    series: Series
    variant: str
    reference: str
    metric: Metric
    before: Floats
    after: Floats
    groups: NDArray[np.str_]
    all_groups: tuple[str, ...]
    missing: int
    bounds: tuple[float, float] | None

    @cached_property
    def differences(self) -> Floats:
        """Variant minus reference, one per item."""
        return self.after - self.before

    @property
    def binary(self) -> bool:
        """Whether the outcome is yes or no."""
        return self.metric.kind == "binary"

    @cached_property
    def clusters(self) -> int:
        """How many groups there are among the items."""
        return len(np.unique(self.groups))

    @property
    def test(self) -> str:
        """Which test fits: none without a direction or items."""
        if self.metric.higher_is_better is None or not len(self.before):
            return "none"
        independent = self.clusters == len(self.groups)
        return "mcnemar-exact" if self.binary and independent else "sign-flip-permutation"


def series_of(
    measurements: pd.DataFrame, metrics: Mapping[tuple[str, str], Metric]
) -> Iterator[tuple[Series, Metric, pd.DataFrame, NDArray[np.str_]]]:
    """Yield each series with its metric, its values [item, variant] and the items' groups.

    Args:
        measurements: `Measurement.COLUMNS`, one row per variant, data set, metric and item.
        metrics: what each metric is, by scorer and name; the order of the series follows theirs.

    Raises:
        InputError: an unknown metric, or an item measured twice.
    """
    frame = measurements[list(Measurement.COLUMNS)]
    # Whole numbers in place of names: pairing a million measurements then takes seconds.
    names, codes = zip(
        *(_coded(frame[column]) for column in (*SERIES, "variant", "item", "group")), strict=True
    )
    value = frame["value"].astype(float).to_numpy()
    parts = {}
    for rows in _split(np.ravel_multi_index(codes[:4], [max(len(n), 1) for n in names[:4]])):
        explainer, dataset, scorer, metric = (
            str(n[c[rows[0]]]) for n, c in zip(names[:4], codes[:4], strict=True)
        )
        parts[explainer, dataset, scorer, metric] = rows
    order = {key: place for place, key in enumerate(metrics)}
    for series in parts:
        if series[2:] not in order:
            raise InputError(
                f"no description of the metric '{series[2]}.{series[3]}', of which there are measurements. "
                "Give it in `metrics`, or score the run again with the installed scorers."
            )
    for series in sorted(parts, key=lambda key: (key[0], key[1], order[key[2:]])):
        rows = parts[series]
        variants, column = np.unique(codes[4][rows], return_inverse=True)
        items, first, line = np.unique(codes[5][rows], return_index=True, return_inverse=True)
        _check_once(frame, rows, line * len(variants) + column, series)
        table = np.full((len(items), len(variants)), np.nan)
        table[line, column] = value[rows]
        values = pd.DataFrame(table, index=names[5][items], columns=names[4][variants])
        yield series, metrics[series[2:]], values, names[6][codes[6][rows[first]]]


def _coded(column: pd.Series[str]) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """Return a column's names in sorted order, and the place of each row's among them."""
    found = column.astype("category").cat
    names, places = np.unique(np.asarray(found.categories, str), return_inverse=True)
    return names, places[found.codes.to_numpy()]


def _split(keys: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the rows that have the same key, each in their order."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(keys) else []


def _check_once(frame: pd.DataFrame, rows: NDArray[np.intp], cells: NDArray[np.intp], series: Series) -> None:
    """Raise InputError where two rows of a series belong in the same cell of item and variant."""
    _, firsts = np.unique(cells, return_index=True)
    if len(firsts) < len(cells):
        again = frame.iloc[rows[np.setdiff1d(np.arange(len(cells)), firsts)[0]]]
        raise InputError(
            f"item '{again['item']}' of '{series[1]}' has two values of "
            f"{series[2]}.{series[3]} for the variant '{again['variant']}'."
        )


def make_pairs(
    measurements: pd.DataFrame,
    metrics: Mapping[tuple[str, str], Metric],
    parent: str,
    contrasts: Sequence[tuple[str, str]] = (),
) -> list[Pair]:
    """Return a pair for every series and variant other than the parent, and for every contrast.

    Args:
        measurements: as `series_of` takes them.
        metrics: what each metric is, by scorer and name.
        parent: the reference of all variants.
        contrasts: further pairs of variant and reference; those without measurements are left out.

    Returns:
        Sorted by explainer, data set, metric in the order of `metrics`, and variant.
    """
    pairs = []
    for series, metric, values, groups in series_of(measurements, metrics):
        names = tuple(np.unique(groups).tolist())
        table = values.to_numpy()
        columns = {name: table[:, place] for place, name in enumerate(values.columns)}
        seen = table[~np.isnan(table)]
        ends = (0.0, 1.0) if metric.kind == "binary" else (seen.min(), seen.max()) if seen.size else None
        asked = [(name, parent) for name in columns if name != parent]
        asked += [(one, other) for one, other in contrasts if one in columns and other in columns]
        nothing = np.full(len(values), np.nan)
        for variant, reference in dict.fromkeys(asked):  # a contrast may be what is compared anyway
            before, after = columns.get(reference, nothing), columns[variant]
            both = ~(np.isnan(before) | np.isnan(after))
            bounds = _bounds(before, after, ends) if ends is not None and both.any() else None
            pairs.append(
                Pair(
                    series, variant, reference, metric, before[both], after[both], groups[both], names,
                    int((~both).sum()), bounds,
                )
            )  # fmt: skip
    return pairs


def _bounds(before: Floats, after: Floats, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the mean difference with missing values at the ends that make it lowest, and highest."""
    low, high = ends

    def mean(filled_after: float, filled_before: float) -> float:
        changed = np.where(np.isnan(after), filled_after, after)
        return float((changed - np.where(np.isnan(before), filled_before, before)).mean())

    return mean(low, high), mean(high, low)
