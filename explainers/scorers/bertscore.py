"""Embedding similarity of an explanation and the gold one: BERTScore-style matching, and sentences.

BERTScore (Zhang et al. 2020, arXiv 1904.09675) matches every token of one text with the most similar token of
the other, by the cosine of contextual embeddings. With explanation tokens x and gold tokens y, all of unit
length: recall = mean over y of max over x of x.y, precision = mean over x of max over y of x.y, F1 their
harmonic mean. As in the paper, what the tokenizer puts around a text ([CLS], [SEP]) is not matched.

Unlike the published score, embeddings are the last layer of the built-in sentence encoder all-MiniLM-L6-v2
(not a chosen layer of RoBERTa-large), every token weighs the same (no inverse document frequencies, which would
make an item's score depend on the others), and values are not rescaled by a baseline. They compare variants
with each other; they are not to be held against published BERTScores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["BertScore", "greedy_matching"]


def greedy_matching(
    found: NDArray[np.float32], gold: NDArray[np.float32]
) -> tuple[float, float, float] | None:
    """Return precision, recall and F1 of greedy matching; null where a text has no tokens.

    Args:
        found: the explanation's token embeddings [tokens, dimension], each of unit length.
        gold: the gold explanation's, likewise.
    """
    if not (len(found) and len(gold)):
        return None
    cosines = found @ gold.T
    precision, recall = float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean())
    total = precision + recall
    # Cosines may be negative; a harmonic mean has no meaning there.
    return precision, recall, 2 * precision * recall / total if min(precision, recall) > 0 else 0.0


def _metric(name: str, description: str, spread: float, confirmatory: bool = False) -> Metric:
    """Return a metric of which `spread` is the standard deviation between the built-in inference set's items."""
    return Metric(
        name=name,
        kind="continuous",
        higher_is_better=True,
        margin=0.025,
        margin_reason=f"Less than a fifth of the spread between items (SD {spread:.2f} on the built-in inference set).",
        confirmatory=confirmatory,
        unit="cosine",
        description=description,
    )


_ENCODER = (
    "BERTScore-style matching of all-MiniLM-L6-v2 token embeddings, without weights or rescaling: not comparable "
    "with published BERTScores."
)


class BertScore(Scorer):
    """How close in meaning an explanation is to the gold one."""

    method: ClassVar[str] = "bertscore"
    summary: ClassVar[str] = (
        "BERTScore-style token matching and sentence similarity of explanations and gold ones"
    )
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        _metric(
            "bertscore_precision",
            f"How well the gold explanation covers the explanation's tokens, 1 at most. {_ENCODER}",
            0.15,
        ),
        _metric(
            "bertscore_recall",
            f"How well the explanation covers the gold explanation's tokens, 1 at most. {_ENCODER}",
            0.13,
        ),
        _metric(
            "bertscore_f1",
            f"Harmonic mean of precision and recall, 1 for the same text. {_ENCODER}",
            0.14,
            confirmatory=True,
        ),
        _metric(
            "sentence_cosine",
            "Cosine of the sentence embeddings (all-MiniLM-L6-v2) of explanation and gold explanation; 1 means the "
            "same.",
            0.16,
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; no value where explanation or gold explanation is missing."""
        explained = rows_of(rows, ExplanationRow)
        pairs = {row.item: (row.explanation, row.reference) for row in explained}
        whole = {item: (a, b) for item, (a, b) in pairs.items() if a is not None and b is not None}
        values: dict[str, tuple[float | None, ...]] = {}
        if whole:
            texts = list(dict.fromkeys(text for pair in whole.values() for text in pair))
            tokens = dict(zip(texts, context.encode_tokens(texts), strict=True))
            vectors = dict(zip(texts, context.encode(texts), strict=True))
            for item, (found, gold) in whole.items():
                matched = greedy_matching(tokens[found], tokens[gold]) or (None, None, None)
                values[item] = (*matched, float(vectors[found] @ vectors[gold]))
        for row in explained:
            for number, metric in enumerate(self.metrics):
                value = values[row.item][number] if row.item in values else None
                yield Score(row.item, row.group, metric.name, value)
