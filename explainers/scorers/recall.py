"""Recall of facts: is the gold object what the model says, and how likely does it find it?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import ClassVar

from explainers.memorization import MemorizationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Recall", "matches", "normalize"]

_ARTICLES = frozenset({"a", "an", "the"})

# Proportions and reciprocal ranks: 5 points are small against the 10 a sweep is to detect. Nats: 0.1 is
# a change of the object's probability by a tenth.
_METRICS = (
    Metric(
        name="recall",
        kind="binary",
        higher_is_better=True,
        margin=0.05,
        unit="proportion",
        description="The completion starts with the gold object or an alias, case and punctuation aside.",
    ),
    Metric(
        name="first_token_recall",
        kind="binary",
        higher_is_better=True,
        margin=0.05,
        unit="proportion",
        description="The gold object's first token is the model's most likely next token.",
    ),
    Metric(
        name="logprob",
        kind="continuous",
        higher_is_better=True,
        margin=0.1,
        unit="nats",
        description="Log-probability of the whole gold object after the prompt.",
    ),
    Metric(
        name="reciprocal_rank",
        kind="continuous",
        higher_is_better=True,
        margin=0.05,
        unit="1 / rank",
        description="1 over the rank of the gold object's first token among all next tokens.",
    ),
)


def normalize(text: str) -> str:
    """Return a text in Unicode NFKC, casefolded, without punctuation, articles and extra spaces.

    >>> normalize(" The  Bahamas.")
    'bahamas'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[\W_]+", " ", folded).split()
    # An article alone is an answer ("A").
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def matches(completion: str, answers: Sequence[str]) -> bool:
    """Whether a completion starts with one of the answers, both normalized, at a word boundary.

    >>> matches(" Paris, France.", ["paris"]), matches(" Parisian", ["Paris"])
    (True, False)
    """
    said = normalize(completion) + " "
    return any(said.startswith(wanted + " ") for a in answers if (wanted := normalize(a)))


class Recall(Scorer):
    """Recall, log-probability and reciprocal rank of gold objects."""

    method: ClassVar[str] = "recall"
    summary: ClassVar[str] = "recall of facts: whole object and first token, log-probability, reciprocal rank"
    explainers: ClassVar[frozenset[str]] = frozenset({"memorization"})
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        for row in rows_of(rows, MemorizationRow):
            values = (
                float(matches(row.completion, [row.gold, *row.aliases])),
                float(row.rank == 1),
                row.logprob,
                1 / row.rank,
            )
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)
