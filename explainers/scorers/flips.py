"""Label flips: does a model change its label for the text once it is edited?

For the judge f, text x, edit x' and target label t: soft flip 1[f(x') != f(x)], hard flip
1[f(x') = t] (Bhattacharjee et al. 2024 call the soft one label flip score). A failed edit counts as no
flip, so that means are over all items and a variant cannot gain by failing where it would not flip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explainers import labels
from explainers.counterfactual import CounterfactualRow, judged_text
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row, digest

__all__ = ["Flips"]

# A change of 5 in 100 items is about what a reader would call no difference in a flip rate.
_MARGIN = 0.05


def _proportion(name: str, better: bool, description: str) -> Metric:
    return Metric(
        name=name,
        kind="binary",
        higher_is_better=better,
        margin=_MARGIN,
        unit="proportion",
        description=description,
    )


class Flips(Scorer):
    """Soft and hard label flips, judged by the editing variant itself and by the parent."""

    method: ClassVar[str] = "flips"
    summary: ClassVar[str] = "label flips of edits, judged by the variant itself and by the parent; failures"
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        _proportion(
            "own_soft_flip", True, "The edit gets another label than the text, by the variant that wrote it."
        ),
        _proportion(
            "own_hard_flip", True, "The edit gets the label asked for, by the variant that wrote it."
        ),
        _proportion(
            "parent_soft_flip", True, "The edit gets another label than the text, by the unquantized parent."
        ),
        _proportion(
            "parent_hard_flip", True, "The edit gets the label asked for, by the unquantized parent."
        ),
        _proportion(
            "failure", False, "There is no edit: cut off or unreadable, empty, or equal to the text."
        ),
    )

    def digest(self) -> str:
        """Return the method's digest, the wording of the label prompts included."""
        return digest([super().digest(), labels.fingerprint()])

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        edits = rows_of(rows, CounterfactualRow)
        by_parent = _parent_labels(edits, dataset, context)
        for row in edits:
            values = {metric.name: 0.0 for metric in self.metrics}
            if row.edited is None:
                values["failure"] = 1.0
            else:
                own, (before, after) = _best(row.labels, row.edited_scores or ()), by_parent[row.item]
                values["own_soft_flip"] = float(own != row.predicted)
                values["own_hard_flip"] = float(own == row.target)
                values["parent_soft_flip"] = float(after != before)
                values["parent_hard_flip"] = float(after == row.target)
            for name, value in values.items():
                yield Score(row.item, row.group, name, value)


def _parent_labels(
    edits: Sequence[CounterfactualRow], dataset: Dataset, context: ScoringContext
) -> dict[str, tuple[str, str]]:
    """The parent's labels of text and edit, by item, of the items that have an edit."""
    done = [row for row in edits if row.edited is not None]
    if not done:
        return {}
    originals = [judged_text(row.part, row.context, row.original) for row in edits]

    def judged() -> tuple[labels.Judge, NDArray[np.float64]]:
        judge = labels.Judge(context.parent(), dataset)
        return judge, judge.logprobs(context.parent(), originals)

    # Every variant edits the same texts: what the parent thinks of them is found once.
    judge, scores = context.remember(digest([dataset.model_dump(mode="json"), originals]), judged)
    before = {row.item: _best(dataset.labels, of) for row, of in zip(edits, scores, strict=True)}
    texts = [judged_text(row.part, row.context, str(row.edited)) for row in done]
    after = judge.logprobs(context.parent(), texts)
    return {
        row.item: (before[row.item], _best(dataset.labels, of)) for row, of in zip(done, after, strict=True)
    }


def _best(names: Sequence[str], scores: ArrayLike) -> str:
    return names[int(np.argmax(scores))]
