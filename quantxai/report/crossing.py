"""Who wrote the edits, crossed with who judges them.

A model that writes an edit and judges it may change in both respects when it is quantized. Flip rates of
every generator under every judge tell the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

__all__ = ["FLIPS", "KINDS", "Corner", "Crossing", "Rate", "crossing", "flip_metric"]

KINDS = ("soft", "hard")
"""Soft: the edit gets another label than the text; hard: it gets the label asked for."""
_JUDGES = {
    "own": "the variant itself",
    "parent": "{parent}, the parent",
    "independent": "an independent judge",
}


def flip_metric(judge: str, kind: str) -> str:
    """Return the metric a judge's word is stored under: own, parent, independent or variant."""
    return f"variant_{kind}_flip_of_parent_edits" if judge == "variant" else f"{judge}_{kind}_flip"


FLIPS = tuple(flip_metric(judge, kind) for judge in (*_JUDGES, "variant") for kind in KINDS)
"""Every metric that is a judge's word on an edit."""


@dataclass(frozen=True)
class Rate:
    """How many of n items flipped."""

    flipped: int
    n: int

    @property
    def share(self) -> float | None:
        """The share of the items; null without any."""
        return self.flipped / self.n if self.n else None


@dataclass(frozen=True)
class Corner:
    """The parent and one variant, each as generator and as judge, on the same items.

    Attributes:
        variant: its name.
        names: the parent and the variant.
        rates: by kind, [generator][judge] in the order of names.
        n: items that all four judged.
    """

    variant: str
    names: tuple[str, str]
    rates: dict[str, list[list[Rate]]]
    n: int


@dataclass(frozen=True)
class Crossing:
    """The flip rates of one explainer on one data set.

    Attributes:
        judges: what each is, with the kinds of flips it was asked for.
        lines: by generator, a rate per judge and kind in the order of judges; null where it did not judge.
        corners: one per variant that judged the parent's edits.
    """

    judges: list[tuple[str, list[str]]]
    lines: dict[str, list[Rate | None]]
    corners: list[Corner]


def crossing(measurements: pd.DataFrame, variants: Sequence[str]) -> Crossing | None:
    """Return the flip rates, or None where no flips were measured.

    Args:
        measurements: those of one explainer on one data set that have a value.
        variants: the parent, then the others.
    """
    known = measurements[measurements.metric.isin(FLIPS)]
    found: dict[tuple[str, str], pd.Series[float]] = {
        key: part.set_index("item")["value"] for key, part in known.groupby(["variant", "metric"], sort=False)
    }
    asked = [
        (judge, [kind for kind in KINDS if any(m == flip_metric(judge, kind) for _, m in found)])
        for judge in _JUDGES
    ]
    asked = [(judge, kinds) for judge, kinds in asked if kinds]
    columns = [flip_metric(judge, kind) for judge, kinds in asked for kind in kinds]
    lines = {
        name: [_rate(found.get((name, metric))) for metric in columns]
        for name in variants
        if any((name, metric) in found for metric in columns)
    }
    if not lines:
        return None
    corners = [_corner(found, variants[0], name) for name in variants[1:]]
    return Crossing(
        [(_JUDGES[judge].format(parent=variants[0]), kinds) for judge, kinds in asked],
        lines,
        [corner for corner in corners if corner is not None],
    )


def _rate(values: pd.Series[float] | None) -> Rate | None:
    return None if values is None else Rate(int((values > 0.5).sum()), len(values))


def _corner(found: dict[tuple[str, str], pd.Series[float]], parent: str, variant: str) -> Corner | None:
    kinds: dict[str, list[list[pd.Series[float]]]] = {}
    for kind in KINDS:
        keys = [
            [(parent, flip_metric("own", kind)), (variant, flip_metric("variant", kind))],
            [(variant, flip_metric("parent", kind)), (variant, flip_metric("own", kind))],
        ]
        if all(key in found for line in keys for key in line):
            kinds[kind] = [[found[key] for key in line] for line in keys]
    if not kinds:
        return None
    # A difference is the judge's or the generator's doing only on the same items.
    parts = [part for lines in kinds.values() for line in lines for part in line]
    shared = sorted(set.intersection(*(set(part.index) for part in parts)))
    rates = {
        kind: [[Rate(int((part[shared] > 0.5).sum()), len(shared)) for part in line] for line in lines]
        for kind, lines in kinds.items()
    }
    return Corner(variant, (parent, variant), rates, len(shared))
