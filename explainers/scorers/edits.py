"""Minimality of edits: word-level Levenshtein distance between text and edit, three ways.

Words are maximal runs of letters, digits and inner apostrophes; every other visible character is a
token of its own; case is kept. The distance counts insertions, deletions and substitutions of tokens
(rapidfuzz), d(x, x'); also d / |x|, and d / max(|x|, |x'|).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rapidfuzz.distance import Levenshtein

from explainers.counterfactual import CounterfactualRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Edits", "word_tokens"]

_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def word_tokens(text: str) -> list[str]:
    """Return the words and punctuation marks of a text.

    >>> word_tokens("Haiti's team won 6-0.")
    ["Haiti's", 'team', 'won', '6', '-', '0', '.']
    """
    return _TOKEN.findall(text)


_METRICS = (
    Metric(
        name="edit_distance",
        kind="continuous",
        higher_is_better=False,
        margin=1.0,
        margin_reason="One word per edit, the least that a reader can see: a twentieth of a built-in headline, a "
        "tenth of a hypothesis.",
        unit="tokens",
        description="Words inserted, deleted or replaced; lower is a more minimal edit.",
    ),
    Metric(
        name="edit_distance_relative",
        kind="continuous",
        higher_is_better=False,
        margin=0.05,
        margin_reason="1 word in 20 of the text: one in a built-in headline, one in every second hypothesis.",
        unit="proportion",
        description="Edit distance over the length of the text; above 1 where the edit is much longer.",
    ),
    Metric(
        name="edit_distance_normalized",
        kind="continuous",
        higher_is_better=False,
        margin=0.05,
        margin_reason="1 word in 20 of the longer text: one in a built-in headline, one in every second hypothesis.",
        unit="proportion",
        description="Edit distance over the longer of text and edit: 0 the same, 1 nothing kept.",
    ),
)


class Edits(Scorer):
    """How much of the text an edit changes."""

    method: ClassVar[str] = "edits"
    summary: ClassVar[str] = "token edit distance between text and edit: raw, relative, normalized"
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a failed edit has no distance."""
        for row in rows_of(rows, CounterfactualRow):
            values: tuple[float | None, ...] = (None, None, None)
            before = word_tokens(row.original)
            if row.edited is not None and before:
                after = word_tokens(row.edited)
                distance = float(Levenshtein.distance(before, after))
                values = (distance, distance / len(before), distance / max(len(before), len(after)))
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)
