"""Diversity of an edit's wording.

Diversity is a property of a set: for counterfactuals the field takes self-BLEU (Zhu et al. 2018, arXiv
1802.01886) among several edits of one text (Polyjuice, Wu et al. 2021, arXiv 2101.00288). Here each text
has one edit, and a measurement belongs to one item and may not change with the others, so that variants
can be compared item by item. What is left is diversity within the edit: distinct-n (Li et al. 2016, arXiv
1510.03055), the share of its n-grams that are different, which falls when a model repeats itself; and the
share of what was inserted that is new, which falls when a model only moves or repeats words of the text.

Words as in explainers.scorers.edits, case aside and punctuation left out. Distinct-n falls with length,
as in the original; edits are about as long as their texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rapidfuzz.distance import Levenshtein

from explainers.counterfactual import CounterfactualRow
from explainers.scorers import rows_of
from explainers.scorers.edits import word_tokens
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Diversity"]


def _share(name: str, description: str, reason: str) -> Metric:
    # More is no better: the smallest edit may insert a known word.
    return Metric(
        name=name,
        kind="continuous",
        higher_is_better=None,
        margin=0.05,
        margin_reason=reason,
        unit="proportion",
        description=description,
    )


class Diversity(Scorer):
    """How much of an edit's wording is different within itself, and new to the text."""

    method: ClassVar[str] = "diversity"
    summary: ClassVar[str] = (
        "distinct-1 and distinct-2 of edits, and the share of inserted words that are new"
    )
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        _share(
            "distinct_1",
            "Different words over words of the edit; 1 where no word is repeated.",
            "1 word in 20 that is a repetition: one more in a headline.",
        ),
        _share(
            "distinct_2",
            "Different pairs of adjacent words over all of the edit; 1 where none is repeated.",
            "1 pair of words in 20 that is a repetition: one more in a headline.",
        ),
        _share(
            "new_words",
            "Different words that the text does not hold, over all inserted or replacing words; no value where "
            "words were only taken out.",
            "1 inserted word in 20 that is new or not.",
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a failed edit has no diversity."""
        for row in rows_of(rows, CounterfactualRow):
            values: tuple[float | None, ...] = (None, None, None)
            if row.edited is not None:
                before, after = _words(row.original), _words(row.edited)
                inserted = [
                    word
                    for step in Levenshtein.opcodes(before, after)
                    if step.tag in ("insert", "replace")
                    for word in after[step.dest_start : step.dest_end]
                ]
                values = (
                    _ratio(set(after), after),
                    _ratio(set(pairs := list(itertools.pairwise(after))), pairs),
                    _ratio(set(inserted) - set(before), inserted),
                )
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)


def _words(text: str) -> list[str]:
    return [token.casefold() for token in word_tokens(text) if token[0].isalnum()]


def _ratio(part: set[str] | set[tuple[str, str]], whole: Sequence[object]) -> float | None:
    return len(part) / len(whole) if whole else None
