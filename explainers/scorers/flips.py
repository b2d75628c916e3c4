"""Label flips: does a model change its label for the text once it is edited?

For the judge f, text x, edit x' and target label t: soft flip 1[f(x') != f(x)], hard flip
1[f(x') = t] (Bhattacharjee et al. 2024 call the soft one label flip score). A failed edit counts as no
flip, so that means are over all items and a variant cannot gain by failing where it would not flip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

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
        done = [row for row in edits if row.edited is not None]
        judged = iter(_parent_labels(done, dataset, context) if done else [])
        for row in edits:
            values = {metric.name: 0.0 for metric in self.metrics}
            if row.edited is None:
                values["failure"] = 1.0
            else:
                own, (before, after) = _best(row.labels, row.edited_scores or ()), next(judged)
                values["own_soft_flip"] = float(own != row.predicted)
                values["own_hard_flip"] = float(own == row.target)
                values["parent_soft_flip"] = float(after != before)
                values["parent_hard_flip"] = float(after == row.target)
            for name, value in values.items():
                yield Score(row.item, row.group, name, value)


def _parent_labels(
    rows: Sequence[CounterfactualRow], dataset: Dataset, context: ScoringContext
) -> list[tuple[str, str]]:
    """The parent's labels of text and edit."""
    texts = [judged_text(r.part, r.context, r.original) for r in rows]
    texts += [judged_text(r.part, r.context, str(r.edited)) for r in rows]
    found = labels.label_logprobs(context.parent(), dataset, texts).argmax(axis=1)
    names = [dataset.labels[int(i)] for i in found]
    return list(zip(names[: len(rows)], names[len(rows) :], strict=True))


def _best(names: Sequence[str], scores: ArrayLike) -> str:
    return names[int(np.argmax(scores))]
