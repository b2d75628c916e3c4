"""Generator and judge crossed: what a variant makes of the edits that its parent wrote.

When one model writes the edits and judges them, a changed flip rate may come from either. With generator
and judge each the parent or the variant there are four flip rates: the parent's own and the variant's own
(scorer `flips`, own_*), the parent's judgement of the variant's edits (parent_*), and the one here. Edits
held fixed, it differs from the parent's own rate by the judge alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from explainers import labels
from explainers.counterfactual import CounterfactualRow
from explainers.scorers import judges, rows_of
from explainers.scorers.flips import proportion
from quantxai.datasets import Dataset
from quantxai.lm import LanguageModel
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row, digest

__all__ = ["Crossing"]


class Crossing(Scorer):
    """Soft and hard flips of the parent's edits, judged by the variant.

    For the parent itself these are its own flips. A judge that sees more flips is no better for it, so
    the metrics have no direction.
    """

    method: ClassVar[str] = "crossing"
    summary: ClassVar[str] = "label flips of the parent's edits, judged by the variant"
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    reads: ClassVar[float] = 1.0
    whose: ClassVar[Literal["variant", "parent", "both"]] = "parent"
    metrics: ClassVar[tuple[Metric, ...]] = (
        proportion(
            "variant_soft_flip_of_parent_edits",
            None,
            "The edit that the unquantized parent wrote gets another label than the text, by the variant.",
            "1 edit in 20: the margin of the flip rates beside which it stands.",
        ),
        proportion(
            "variant_hard_flip_of_parent_edits",
            None,
            "The edit that the unquantized parent wrote gets the label asked of the parent, by the variant.",
            "1 edit in 20: the margin of the flip rates beside which it stands.",
        ),
    )

    def digest(self) -> str:
        """Return the method's digest, the wording of the label prompts included."""
        return digest([super().digest(), labels.fingerprint()])

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; the rows are the parent's, and a failed edit is no flip."""
        edits = rows_of(rows, CounterfactualRow)
        for row, values in zip(edits, _flips(edits, dataset, context), strict=True):
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)


def _flips(
    edits: Sequence[CounterfactualRow], dataset: Dataset, context: ScoringContext
) -> list[tuple[float, float]]:
    if context.variant() is None:
        return [judges.own_flips(row) for row in edits]

    def variant() -> LanguageModel:
        lm = context.variant()
        assert lm is not None
        return lm

    return judges.flips(
        "variant", lambda: judges.Prompted(variant, dataset, "the variant"), edits, dataset, context
    ).flips
