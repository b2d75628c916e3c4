"""One question and variant against the reference: answers, estimate, interval, tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantxai.statistics.crossed import Crossed
from userstudy.analysis.crossed import Clusters, Floats, group_names, regress
from userstudy.settings import Question

__all__ = ["Comparison", "compared", "interval", "two_sided"]

_CLUSTERS = ["participant", "item", "group"]
_PAGE = [*_CLUSTERS, "variant"]


@dataclass
class Comparison:
    """One question and variant, with what is found out about it.

    Attributes:
        question: which.
        variant: which.
        own: answers about the variant: `value`, and participant, item and group as numbers.
        other: answers about the reference; empty for pairs, whose answers are differences already.
        found: estimate and variances.
        values: fields of `RatingFinding` that checks fill in.
        notes: what to know.
    """

    question: Question
    variant: str
    own: pd.DataFrame
    other: pd.DataFrame
    found: Crossed | None = None
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def pairwise(self) -> bool:
        """Whether answers are preferences between the variant and the reference."""
        return self.question.kind == "pairwise"

    @property
    def comparable(self) -> bool:
        """Whether there are answers to compare."""
        return len(self.own) > 0 and (self.pairwise or len(self.other) > 0)

    @property
    def by_participant(self) -> Floats:
        """Each participant's mean difference, of those who have rated both."""
        own = self.own.groupby("participant")["value"].mean()
        if not self.pairwise:
            own = (own - self.other.groupby("participant")["value"].mean()).dropna()
        found: Floats = own.to_numpy(float)
        return found


def compared(
    rated: pd.DataFrame, questions: Sequence[Question], reference: str, variants: Sequence[str]
) -> list[Comparison]:
    """Return every variant against the reference on every question, estimated.

    Args:
        rated: first answers with a value, of those who are kept.
        questions: those that have numbers.
        reference: the variant the others are compared with.
        variants: the others.
    """
    rated = _coded(rated)
    parts = dict(tuple(rated.groupby(["question", "variant"], sort=False)))
    none = rated.iloc[:0]
    found = [
        Comparison(
            question,
            variant,
            own=parts.get((question.id, variant), none),
            other=none if question.kind == "pairwise" else parts.get((question.id, reference), none),
        )
        for question in questions
        for variant in variants
    ]
    by_name = {(one.question.id, one.variant): one for one in found}
    for batch in _batches(rated, questions):
        _estimate(batch, by_name, variants)
    return found


def two_sided(found: Crossed) -> float | None:
    """Return the p of no difference; None where nothing varies."""
    return min(1.0, 2 * found.tail(abs(found.mean) / found.error)) if found.error > 0 else None


def interval(found: Crossed, alpha: float, largest: float = np.inf) -> tuple[float | None, float | None]:
    """Return the 1 - alpha interval, kept within what is possible; None where nothing varies."""
    if not found.error > 0:
        return None, None
    half = found.quantile(alpha / 2) * found.error
    return max(found.mean - half, -largest), min(found.mean + half, largest)


def _coded(rated: pd.DataFrame) -> pd.DataFrame:
    """Return what is compared, names of items and groups as numbers in their order: text takes most of the time."""
    names = {"item": rated["item"], "group": group_names(rated)}
    codes = {name: pd.factorize(column, sort=True)[0] for name, column in names.items()}
    return rated[["participant", "variant", "question", "value"]].assign(**codes)


def _batches(
    rated: pd.DataFrame, questions: Sequence[Question]
) -> Iterator[tuple[pd.DataFrame, list[str], bool]]:
    """Yield tables of questions that were answered on the same pages: they share the regression's matrices.

    Each with the names of its questions, a column of answers each, and whether they are pairwise.
    """
    if rated.empty:
        return
    for pairwise in (False, True):
        names = [q.id for q in questions if (q.kind == "pairwise") == pairwise]
        chosen = rated[rated["question"].isin(names)]
        first = chosen.drop_duplicates([*_PAGE, "question"])
        wide = first.set_index([*_PAGE, "question"])["value"].unstack("question").reset_index()
        patterns: dict[bytes, list[str]] = {}
        for name in (name for name in names if name in wide):
            patterns.setdefault(wide[name].notna().to_numpy().tobytes(), []).append(name)
        for group in patterns.values():
            yield wide[wide[group[0]].notna()], group, pairwise


def _clusters(table: pd.DataFrame) -> Clusters:
    return Clusters(*(pd.factorize(table[name])[0] for name in _CLUSTERS))


def _no_surer(one: Crossed | None, reference: tuple[int, int]) -> Crossed | None:
    """Return a difference with as many participants and groups as its scarcer side has; None with fewer than two."""
    if one is None or min(reference) < 2:
        return None
    groups = min(one.groups, reference[1])
    return replace(one, seeds=min(one.seeds, reference[0]), groups=groups, typical=float(groups))


def _estimate(
    batch: tuple[pd.DataFrame, list[str], bool],
    found: Mapping[tuple[str, str], Comparison],
    variants: Sequence[str],
) -> None:
    """Fill in estimate and variances of the questions of one batch."""
    table, names, pairwise = batch
    outcomes = table[names].to_numpy(float)
    shown = table["variant"].to_numpy()
    if not pairwise:
        columns = np.stack([shown == variant for variant in variants], axis=1).astype(float)
        clusters, reference = _clusters(table), np.equal(columns.sum(1), 0)
        rows, sizes = regress(outcomes, columns, clusters), clusters.of_rows(reference).sizes
        for name, row in zip(names, rows, strict=True):
            for variant, one in zip(variants, row, strict=True):
                found[name, variant].found = _no_surer(one, sizes)
        return
    for variant in variants:
        own: NDArray[np.bool_] = shown == variant
        if own.any():
            constant = np.ones((int(own.sum()), 1))
            rows = regress(outcomes[own], constant, _clusters(table[own]), fixed=False)
            for name, row in zip(names, rows, strict=True):
                found[name, variant].found = row[0]
