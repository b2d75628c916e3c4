"""Means with their intervals, as a table shows them: over items, or over relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai.report.text import change, level, width_places
from quantxai.statistics import Interval, bootstrap_intervals, clopper_pearson, cluster_bootstrap

__all__ = ["Mean", "Resampling", "macro_change", "macro_mean", "mean", "mean_change", "series"]


_ROUNDING = 1e-9
"""Relative difference up to which values are taken to be the same."""


@dataclass(frozen=True)
class Mean:
    """A mean, or a mean difference.

    Attributes:
        value: the mean; null without data.
        ends: its interval; null where there is nothing to judge it by.
        n: items it is about.
        groups: groups (relations) that these belong to.
        unit: of the values.
        signed: whether it is a difference.
        alike: whether all values are the same, so that there is no spread to judge by.
    """

    value: float | None
    ends: Interval | None
    n: int
    groups: int
    unit: str
    signed: bool = False
    alike: bool = False

    @property
    def text(self) -> str:
        """`43.5 %`, `-1.21`; of a difference `+2.0 pp`."""
        if not self.signed:
            return level(self.value, self.unit)
        pp = "\N{NO-BREAK SPACE}pp" if self.unit == "proportion" and self.value is not None else ""
        return f"{change(self.value, self.unit, self._places)}{pp}"

    @property
    def interval(self) -> str:
        """`[31.0 %, 56.1 %]`."""
        if self.ends is None:
            return "all alike" if self.alike else "no interval"
        if self.signed:
            low, high = (change(end, self.unit, self._places) for end in self.ends)
        else:
            low, high = (level(end, self.unit) for end in self.ends)
        return f"[{low}, {high}]"

    @property
    def _places(self) -> int | None:
        return None if self.ends is None else width_places(self.ends.high - self.ends.low)


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: alpha is 1 - their level."""

    alpha: float = 0.05
    resamples: int = 10_000

    @classmethod
    def of(cls, analysis: Mapping[str, Any]) -> Resampling:
        """Return what a manifest's analysis says."""
        return cls(float(analysis.get("alpha", 0.05)), int(analysis.get("resamples", 10_000)))

    def interval(self, values: NDArray[np.float64], groups: NDArray[np.str_]) -> Interval | None:
        """Return the cluster bootstrap's; null for fewer than two groups."""
        rng = np.random.default_rng(0)  # the same report at each call
        return cluster_bootstrap(values, groups, self.resamples, rng, 1 - self.alpha)

    def bands(self, table: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
        """Return the interval of each column's mean, [low or high, column]; nan for fewer than two groups.

        Args:
            table: [item, column].
            groups: the items'.
        """
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        members = (codes[:, None] == np.arange(codes.max() + 1)).astype(float)  # [item, group]
        sums = members.T @ table
        counts = np.broadcast_to(members.sum(0)[:, None], sums.shape)
        rng = np.random.default_rng(0)
        found: NDArray[np.float64] = bootstrap_intervals(sums, counts, self.resamples, rng, [1 - self.alpha])[
            0
        ]
        return found


def series(measurements: pd.DataFrame, scorer: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Return a scorer's values and groups, a line per item (the index), by variant and metric."""
    own = measurements[measurements.scorer == scorer]
    return {
        (str(variant), str(metric)): part.set_index("item")[["value", "group"]]
        for (variant, metric), part in own.groupby(["variant", "metric"], sort=False)
    }


def mean(values: pd.DataFrame, unit: str, how: Resampling) -> Mean:
    """Return the mean over items, its interval clustered by group.

    A share of which all items are alike, or of one group, gets the exact interval, which takes them as
    independent.

    Args:
        values: columns value and group, a line per item, none missing.
        unit: of the values.
        how: makes the interval.
    """
    found = _mean(values, len(values), unit, how)
    of = values["value"].to_numpy(float)
    if unit == "proportion" and found.ends is None and np.isin(of, (0, 1)).all():
        return replace(found, ends=clopper_pearson(int(of.sum()), len(of), 1 - how.alpha))
    return found


def mean_change(values: pd.DataFrame, others: pd.DataFrame, unit: str, how: Resampling) -> Mean:
    """Return the mean difference to others, over the items of both; arguments as for `mean`, item the index."""
    paired = _paired(values, others)
    return _mean(paired, len(paired), unit, how, signed=True)


def macro_mean(values: pd.DataFrame, unit: str, how: Resampling) -> Mean:
    """Return the mean over relations of each relation's mean, with the interval over relations.

    Args:
        values: columns value and group (the relation), a line per item, none missing.
        unit: of the values.
        how: makes the interval; relations are what is resampled.
    """
    return _mean(_by_relation(values), len(values), unit, how)


def macro_change(values: pd.DataFrame, others: pd.DataFrame, unit: str, how: Resampling) -> Mean:
    """Return the macro mean of the differences to others, over the items of both, the index being the item."""
    paired = _paired(values, others)
    return _mean(_by_relation(paired), len(paired), unit, how, signed=True)


def _mean(values: pd.DataFrame, n: int, unit: str, how: Resampling, signed: bool = False) -> Mean:
    of, groups = values["value"].to_numpy(float), values["group"].to_numpy(str)
    if not len(of):
        return Mean(None, None, 0, 0, unit, signed)
    alike = len(of) > 1 and bool(np.ptp(of) < _ROUNDING * max(1.0, np.abs(of).max()))
    # Without any spread it would be a point, as if there could be none.
    ends = None if alike else how.interval(of, groups)
    if ends is not None and unit == "proportion" and not signed:
        # No share is below 0 or above 1, whatever a t interval of few groups says.
        ends = Interval(max(ends.low, 0.0), min(ends.high, 1.0))
    return Mean(float(of.mean()), ends, n, len(set(groups)), unit, signed, alike)


def _by_relation(values: pd.DataFrame) -> pd.DataFrame:
    return values.groupby("group", as_index=False)["value"].mean()


def _paired(values: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    shared = values.index.intersection(others.index)
    differences = values.loc[shared, "value"] - others.loc[shared, "value"]
    return pd.DataFrame({"value": differences, "group": values.loc[shared, "group"]})
