"""Self-consistency: do explanations drawn at random lead where the greedy one does, and do they agree?

Reads the `samples` and `sample_labels` that natural_language draws if its option `samples` is above 0. The
majority vote over the predictions that go with them is Wang et al. 2022, arXiv 2203.11171; of labels that tie,
the one drawn first wins, which is chance and no label's advantage. A sample without an explanation still has a
prediction and a vote; how many there are is a metric.

Where predictions come first, they come before what is sampled and are all the same: agreement and vote have no
value there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["SelfConsistency", "majority"]


class SelfConsistency(Scorer):
    """How much sampled explanations agree with each other and with the greedy one."""

    method: ClassVar[str] = "self_consistency"
    summary: ClassVar[str] = "agreement, majority vote and similarity of sampled explanations"
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="agreement",
            kind="continuous",
            # A model that always gives one answer agrees with itself, too: no direction is quality.
            higher_is_better=None,
            margin=0.05,
            margin_reason="1 sample in 20 that leads elsewhere.",
            unit="proportion",
            description="Share of the sampled explanations that lead to the same prediction as the greedy one. No "
            "value without samples (option samples) or where predictions come first.",
        ),
        Metric(
            name="majority_accuracy",
            kind="binary",
            higher_is_better=True,
            margin=0.05,
            margin_reason="1 item in 20 whose vote is right or wrong: the margin of the accuracy without a vote.",
            unit="proportion",
            description="The prediction that most of the sampled explanations lead to is the gold label; of those that "
            "tie, the one drawn first. No value without samples or where predictions come first.",
        ),
        Metric(
            name="sample_similarity",
            kind="continuous",
            higher_is_better=None,
            margin=0.05,
            margin_reason="The margin of the similarity of texts and edits: the same encoder, the same unit.",
            unit="cosine",
            description="Mean cosine of the sentence embeddings over all pairs of an item's sampled explanations; 1 "
            "where all say the same. No value with fewer than two.",
        ),
        Metric(
            name="sample_failure",
            kind="continuous",
            higher_is_better=False,
            margin=0.05,
            margin_reason="1 sample in 20 that holds no explanation: the margin of failed explanations.",
            unit="proportion",
            description="Share of the samples that hold no explanation. No value without samples.",
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        explained = rows_of(rows, ExplanationRow)
        aliases = {item.id: item.aliases for item in dataset.items}
        texts = list(dict.fromkeys(text for row in explained for text in row.samples if text))
        vectors = dict(zip(texts, context.encode(texts), strict=True)) if texts else {}
        for row in explained:
            agreement, vote, failed = None, None, None
            if row.samples:
                failed = row.samples.count("") / len(row.samples)
                if row.order == "explain-then-predict":
                    agreement = row.sample_labels.count(row.predicted) / len(row.sample_labels)
                    vote = float(majority(row.sample_labels) in {row.gold, *aliases[row.item]})
            values = (agreement, vote, _similarity(row.samples, vectors), failed)
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)


def majority(labels: Sequence[str]) -> str:
    """Return the most frequent label; of those that tie, the first.

    >>> majority(["no", "yes", "yes", "no", "maybe"])
    'no'
    """
    # Counter keeps the order in which labels came, and max takes the first of equals.
    votes = Counter(labels)
    return max(votes, key=lambda label: votes[label])


def _similarity(samples: Sequence[str], vectors: Mapping[str, NDArray[np.float32]]) -> float | None:
    """Mean cosine over the pairs of samples that are not empty."""
    found = [vectors[text] for text in samples if text]
    if len(found) < 2:
        return None
    cosines = np.stack(found) @ np.stack(found).T
    return float(cosines[np.triu_indices(len(found), k=1)].mean())
