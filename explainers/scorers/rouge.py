"""ROUGE of an explanation against the gold one (Lin 2004, aclanthology.org/W04-1013).

ROUGE-N counts the n-grams that explanation and gold explanation share, each as often as in the text that has
fewer of it; ROUGE-L takes the longest common subsequence of words (rapidfuzz). Both are given as F1: the
harmonic mean of the share of the explanation's n-grams (words) and of the gold explanation's that are common.

Words are maximal runs of letters and digits of any script, case aside, without stemming and with stop words:
Google's rouge-score with its defaults, except that it splits words at letters outside a-z.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rapidfuzz.distance import LCSseq

from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Rouge", "rouge_l", "rouge_n", "words"]

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case.

    >>> words("The team's naïve 6-0.")
    ['the', 'team', 's', 'naïve', '6', '0']
    """
    return _WORD.findall(text.lower())


def rouge_n(found: Sequence[str], gold: Sequence[str], n: int) -> float:
    """Return ROUGE-N as F1, between 0 and 1; 0 where a text has fewer than n words."""
    ours, theirs = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (found, gold))
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(found: Sequence[str], gold: Sequence[str]) -> float:
    """Return ROUGE-L as F1, between 0 and 1; the texts are taken as one sentence each."""
    return _f1(LCSseq.similarity(found, gold), len(found), len(gold))


def _f1(common: int, found: int, gold: int) -> float:
    # 2 P R / (P + R) with P = common / found and R = common / gold.
    return 2 * common / (found + gold) if common else 0.0


def _metric(name: str, what: str, margin: float, spread: float) -> Metric:
    """Return a metric of which `spread` is the standard deviation between the built-in inference set's items."""
    return Metric(
        name=name,
        kind="continuous",
        higher_is_better=True,
        margin=margin,
        margin_reason=f"Less than a fifth of the spread between items (SD {spread:.2f} on the built-in inference set).",
        unit="F1",
        description=f"Share of {what} that explanation and gold explanation have in common, as F1: 1 for the same "
        "text; case aside, without stemming. No value where either is missing.",
    )


class Rouge(Scorer):
    """How many of the gold explanation's words an explanation uses."""

    method: ClassVar[str] = "rouge"
    summary: ClassVar[str] = "ROUGE-1, ROUGE-2 and ROUGE-L of explanations against the gold ones"
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        _metric("rouge_1", "the words", 0.025, 0.15),
        _metric("rouge_2", "the pairs of adjacent words", 0.02, 0.12),
        _metric("rouge_l", "the words in the same order (longest common subsequence)", 0.025, 0.13),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        for row in rows_of(rows, ExplanationRow):
            values: tuple[float | None, ...] = (None, None, None)
            if row.explanation is not None and row.reference is not None:
                found, gold = words(row.explanation), words(row.reference)
                values = (rouge_n(found, gold, 1), rouge_n(found, gold, 2), rouge_l(found, gold))
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)
