"""Neuron attribution of a variant beside its parent's: the same neurons, heads and layers, or others?

The first measure is the authors' (Wang et al. 2025, arXiv 2505.13963, with the scores of Yu & Ananiadou 2024,
arXiv 2312.12141): how many of the variant's neurons score at least as high as the last of the parent's top
300. It sees the size of scores alone, and not which neurons they are; the others are beside it.

No metric has a direction: the parent's own value, 300 or 1, is the largest there is, or all there is to
differ from, so whatever disturbs the weights moves away from it. What is particular to a quantizer is how far
it is from a noise control of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field

from explainers.neuron_attribution import NeuronAttributionRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["NeuronAttributionScorer", "cosine", "jaccard", "rank_correlation", "threshold"]

Neuron: TypeAlias = tuple[int, int]
"""A layer, and a place within it."""

_ANGLE = "A profile that turns by 18 degrees from the parent's: cos 18 = 0.95."
_BASELINE = "The parent's own value is 1: compare with the noise control's, not with 1."


def _metric(name: str, unit: str, description: str, reason: str, margin: float = 0.05) -> Metric:
    return Metric(
        name=name,
        kind="continuous",
        higher_is_better=None,
        margin=margin,
        margin_reason=reason,
        unit=unit,
        description=description,
    )


class NeuronAttributionScorer(Scorer):
    """Counts, overlaps and correlations of a variant's attribution with its parent's, fact by fact."""

    method: ClassVar[str] = "neuron_attribution"
    summary: ClassVar[str] = "are the neurons, heads and layers behind a fact those of the parent?"
    explainers: ClassVar[frozenset[str]] = frozenset({"neuron_attribution"})
    whose: ClassVar[Literal["variant", "parent", "both"]] = "both"
    metrics: ClassVar[tuple[Metric, ...]] = (
        _metric(
            "neurons_above",
            "neurons",
            "The variant's neurons that score at least as high as the last of the parent's top 300; those that the "
            "explainer does not keep (600 are kept) are not counted. The parent's own value is 300: compare with the "
            "noise control's.",
            "A tenth of the parent's own 300.",
            30.0,
        ),
        _metric(
            "neurons_above_reverse",
            "neurons",
            "The parent's neurons that score at least as high as the last of the variant's top 300, counted likewise. "
            "Above below 300 and this one beyond it: the variant's scores are smaller throughout; the other way "
            "round, they are larger.",
            "A tenth of the parent's own 300, as for neurons_above.",
            30.0,
        ),
        _metric(
            "neuron_overlap",
            "Jaccard",
            f"The neurons in both top 300, as a share of those in either. {_BASELINE}",
            "Near 1 it is 8 of the 300 neurons exchanged: 292 / 308 = 0.95.",
        ),
        _metric(
            "neuron_overlap_known",
            "Jaccard",
            "The same for facts that the parent knows alone: their first token is its most likely one, as in the "
            f"published experiments. {_BASELINE}",
            "As for the overlap on all facts: 8 of the 300 neurons exchanged.",
        ),
        _metric(
            "neuron_rank_correlation",
            "Spearman's rho",
            "Rank correlation of the scores of all neurons in either top 300; one that the other does not keep comes "
            f"last there. Neurons in one top alone pull it down, below 0 if there are many. {_BASELINE}",
            "A twentieth of what lies between no common order and the parent's own.",
        ),
        _metric(
            "ffn_profile_similarity",
            "cosine",
            f"Likeness of what each layer's FFN adds to the fact's log-probability, sizes aside. {_BASELINE}",
            _ANGLE,
        ),
        _metric(
            "attention_profile_similarity",
            "cosine",
            f"Likeness of what each layer's attention adds to the fact's log-probability, sizes aside. {_BASELINE}",
            _ANGLE,
        ),
        _metric(
            "head_profile_similarity",
            "cosine",
            f"Likeness of what each attention head adds to the fact's log-probability, sizes aside. {_BASELINE}",
            _ANGLE,
        ),
        _metric(
            "query_overlap",
            "Jaccard",
            "The query neurons (those that feed the heads that matter) in both top 300, as a share of those in "
            f"either. {_BASELINE}",
            "As for the overlap of the other neurons: 8 of 300 exchanged.",
        ),
        Metric(
            name="failure",
            kind="binary",
            higher_is_better=None,
            margin=0.05,
            margin_reason="1 fact in 20 of which nothing is attributed.",
            unit="proportion",
            description="Nothing could be attributed: the object has no token of its own to begin with, or the query "
            "names no subject. The fact has no other value then.",
        ),
    )

    top: int = Field(
        default=300, ge=1, description="Neurons that are compared, of those the explainer keeps."
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; without an attribution on either side there is no value."""
        parents = {row.item: row for row in rows_of(context.parent_rows, NeuronAttributionRow)}
        found = rows_of(rows, NeuronAttributionRow)
        self._note(found, context)
        for row in found:
            parent = parents.get(row.item)
            values: Sequence[float | None] = [None] * (len(self.metrics) - 1)
            if parent is not None and _comparable(row, parent):
                values = self._compared(row, parent)
            for metric, value in zip(self.metrics, [*values, float(row.problem is not None)], strict=True):
                yield Score(row.item, row.group, metric.name, value)

    def _note(self, rows: Sequence[NeuronAttributionRow], context: ScoringContext) -> None:
        """List the facts of which nothing or no query neuron was attributed, by reason, and what is not whole."""
        for name, reason in (("nothing_attributed", "problem"), ("no_query_neurons", "query_problem")):
            listed: dict[str, list[str]] = {}
            for row in rows:
                if (why := getattr(row, reason)) is not None:
                    listed.setdefault(why, []).append(row.item)
            if listed:
                context.note(name, listed)
        unproven = [r.item for r in rows if (r.certain or 0) < min(self.top, len(r.neuron_scores))]
        if unproven:
            context.note("top_not_proven", unproven)
        parents = {r.item: r for r in rows_of(context.parent_rows, NeuronAttributionRow)}
        full = [
            r.item
            for r in rows
            if (p := parents.get(r.item))
            and r.neuron_scores
            and p.neuron_scores
            and r.neuron_scores[-1] >= threshold(p, self.top)
        ]
        if full:
            context.note("neurons_above_at_its_limit", full)

    def _compared(self, row: NeuronAttributionRow, parent: NeuronAttributionRow) -> list[float | None]:
        own, other = _neurons(row), _neurons(parent)
        return [
            float(sum(score >= threshold(parent, self.top) for score in row.neuron_scores)),
            float(sum(score >= threshold(row, self.top) for score in parent.neuron_scores)),
            overlap := jaccard(own[: self.top], other[: self.top]),
            overlap if parent.rank == 1 else None,
            rank_correlation(own, other, self.top),
            cosine(row.ffn_scores, parent.ffn_scores),
            cosine(row.attention_scores, parent.attention_scores),
            cosine(row.head_scores, parent.head_scores),
            None
            if row.query_problem or parent.query_problem
            else jaccard(_query_neurons(row)[: self.top], _query_neurons(parent)[: self.top]),
        ]


def _comparable(row: NeuronAttributionRow, parent: NeuronAttributionRow) -> bool:
    """Whether both were attributed, and the same token: with target = "predicted" a variant may have another."""
    return row.problem is None and parent.problem is None and row.token == parent.token


def _neurons(row: NeuronAttributionRow) -> list[Neuron]:
    return list(zip(row.neuron_layers, row.neuron_indices, strict=True))


def _query_neurons(row: NeuronAttributionRow) -> list[Neuron]:
    return list(zip(row.query_layers, row.query_indices, strict=True))


def threshold(row: NeuronAttributionRow, top: int) -> float:
    """Return tau: the lowest score among a row's `top` highest; infinite where it has none."""
    return row.neuron_scores[:top][-1] if row.neuron_scores else math.inf


def jaccard(one: Sequence[Neuron], other: Sequence[Neuron]) -> float | None:
    """Return the share of the members of two sets that both have; null where both are empty.

    >>> jaccard([(0, 1), (0, 2)], [(0, 2), (1, 1)])
    0.3333333333333333
    """
    either = set(one) | set(other)
    return len(set(one) & set(other)) / len(either) if either else None


def rank_correlation(one: Sequence[Neuron], other: Sequence[Neuron], top: int) -> float | None:
    """Return Spearman's rho of the ranks that two lists, best first, give the neurons in the `top` of either.

    A neuron that a list does not hold shares its last rank with the others it does not. Null where one list
    ranks all the same.
    """
    from scipy.stats import spearmanr

    union = sorted({*one[:top], *other[:top]})
    ranks = []
    for ordered in (one, other):
        place = {neuron: rank for rank, neuron in enumerate(ordered)}
        ranks.append([place.get(neuron, len(ordered)) for neuron in union])
    if any(len(set(r)) < 2 for r in ranks):
        return None
    return float(spearmanr(*ranks).statistic)


def cosine(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the cosine of two profiles; null where one of them is zero throughout.

    Not a correlation: a contribution of 0 nats is nothing, and not merely less than the mean.

    >>> cosine([3.0, 4.0], [6.0, 8.0])
    1.0
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else None
