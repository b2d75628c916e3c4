"""What changes from page to page: learning, fatigue, and whether it does so alike for all variants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from quantxai import statistics
from quantxai.statistics.crossed import Crossed
from userstudy.analysis.comparison import interval, two_sided
from userstudy.analysis.crossed import Clusters, Floats, regress
from userstudy.analysis.results import OrderEffect
from userstudy.settings import StudySettings

__all__ = ["order_effects"]

Head = dict[str, Any]
"""Fields of `OrderEffect` that say what it is about."""


def order_effects(
    rated: pd.DataFrame, settings: StudySettings, variants: Sequence[str]
) -> tuple[OrderEffect, ...]:
    """Return how ratings, and the time taken, change with the page's position.

    Coefficients of `crossed.regress` on position and variants, and of a second regression with their
    products, too: how much more of the change a variant has than the reference. Times are compared by their
    logarithm, since they are skewed.

    Args:
        rated: first answers with a value, of those who are kept.
        settings: the study's.
        variants: those compared with the reference.
    """
    found: list[OrderEffect] = []
    for question in settings.questions:
        own = rated[rated["question"] == question.id]
        if question.numeric and len(own):
            # Pairs hold the reference already, so that no variant is one to set others against.
            shown = variants if question.kind != "pairwise" else ()
            unit = "points a page" if question.kind == "likert" else "share a page"
            rating: Head = {"question": question.id, "outcome": "rating", "unit": unit}
            found += _effects(own, own["value"].to_numpy(float), rating, shown, settings.analysis.alpha)
    pages = rated.drop_duplicates(["participant", "position"])
    pages = pages[pages["seconds"] > 0]
    if len(pages):
        time: Head = {"question": None, "outcome": "seconds", "unit": "log seconds a page"}
        found += _effects(
            pages, np.log(pages["seconds"].to_numpy(float)), time, variants, settings.analysis.alpha
        )
    corrected = statistics.adjusted([one.p for one in found], "benjamini-hochberg")
    return tuple(one.model_copy(update={"p_adjusted": p}) for one, p in zip(found, corrected, strict=True))


def _effects(
    own: pd.DataFrame, outcome: Floats, head: Head, variants: Sequence[str], alpha: float
) -> Iterator[OrderEffect]:
    """Yield the change from page to page of all variants, and of each against the reference."""
    shown = own["variant"].to_numpy()
    present = [variant for variant in variants if (shown == variant).any()]
    position = own["position"].to_numpy(float)
    position = (position - position.mean())[:, None]
    dummies = (
        np.stack([shown == variant for variant in present], axis=1).astype(float)
        if present
        else np.zeros((len(own), 0))
    )
    clusters = Clusters.of(own)
    size = {"n": len(own), "participants": own["participant"].nunique()}
    plain = regress(outcome[:, None], np.concatenate([position, dummies], axis=1), clusters)[0][0]
    yield _effect(plain, head | {"variant": None}, size, alpha)
    if present:
        columns = np.concatenate([position * dummies, position, dummies], axis=1)
        for variant, one in zip(present, regress(outcome[:, None], columns, clusters)[0], strict=False):
            yield _effect(one, head | {"variant": variant}, size, alpha)


def _effect(found: Crossed | None, head: Head, size: dict[str, int], alpha: float) -> OrderEffect:
    known = found is not None and found.error > 0
    low, high = interval(found, alpha) if found is not None else (None, None)
    return OrderEffect(
        **head,
        **size,
        estimate=found.mean if found is not None else None,
        ci_low=low,
        ci_high=high,
        p=two_sided(found) if found is not None else None,
        p_adjusted=None,
        notes=() if known else ("Positions, participants or answers do not vary enough to tell.",),
    )
