"""The prediction that goes with an explanation, and whether there is an explanation at all.

An explanation is worth little beside a wrong prediction, and a protocol may cost accuracy (Wei et al. 2022,
arXiv 2201.11903, and Camburu et al. 2018, arXiv 1812.01193, report accuracy beside explanations). Two
predictions are observed: the answer words compared with each other, which always gives a label, and what the
model says when it is left to speak, which need not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Prediction"]


def _proportion(name: str, better: bool, description: str, reason: str, confirmatory: bool = False) -> Metric:
    return Metric(
        name=name,
        kind="binary",
        higher_is_better=better,
        margin=0.05,
        margin_reason=reason,
        confirmatory=confirmatory,
        unit="proportion",
        description=description,
    )


class Prediction(Scorer):
    """How right the predictions are, and how often the explanation is missing."""

    method: ClassVar[str] = "prediction"
    summary: ClassVar[str] = "accuracy of the predictions that go with explanations; missing explanations"
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        _proportion(
            "accuracy",
            True,
            "The prediction that goes with the explanation is the gold label; it is the most likely of the labels' "
            "answer words, so there always is one.",
            "1 answer in 20 that turns wrong or right: whoever asks 20 questions meets one other outcome.",
            confirmatory=True,
        ),
        _proportion(
            "said_accuracy",
            True,
            "The label the model says when it is left to speak is the gold one; saying no label counts as wrong.",
            "1 answer in 20 that turns wrong or right, as for the scored label.",
        ),
        _proportion(
            "said_agrees",
            True,
            "The label the model says when it is left to speak is its most likely one; saying no label counts as "
            "disagreeing.",
            "1 answer in 20 that departs from what the model finds most likely.",
        ),
        _proportion(
            "failure",
            False,
            "There is no explanation: nothing was said, no sentence was finished, or the question was repeated "
            "or a demonstration copied.",
            "1 item in 20 without an explanation; as many values of all other metrics of explanations are missing.",
        ),
        Metric(
            name="length",
            kind="continuous",
            higher_is_better=None,
            margin=2.0,
            margin_reason="A word or two; explanations have ten tokens and more.",
            unit="tokens",
            description="Tokens that were generated for the explanation; no value where it failed.",
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a failed explanation still has a prediction, but no length."""
        # Two options of a question may say the same.
        aliases = {item.id: item.aliases for item in dataset.items}
        for row in rows_of(rows, ExplanationRow):
            right = {row.gold, *aliases[row.item]}
            values = (
                float(row.predicted in right),
                float(row.said in right),
                float(row.said == row.predicted),
                float(row.explanation is None),
                None if row.explanation is None else float(row.tokens),
            )
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)
