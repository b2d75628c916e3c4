"""Label flips: does a judge change its label for the text once it is edited?

For the judge f, text x, edit x' and target label t: soft flip 1[f(x') != f(x)], hard flip
1[f(x') = t] (Bhattacharjee et al. 2024, arXiv 2405.04793, call the soft one label flip score). A failed
edit counts as no flip, so that means are over all items and a variant cannot gain by failing where it
would not flip. The variant's own judgement changes with its edits, and the parent judges by weights it
shares with the variant, hence the third judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from explainers import labels
from explainers.counterfactual import CounterfactualRow
from explainers.scorers import judges, rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row, digest

__all__ = ["Flips", "proportion"]

_BLURRED = (
    "1 edit in 20, as by the other judges; a judge that errs at random brings rates nearer to each other, so the "
    "margin is generous where its accuracy is low."
)


def proportion(
    name: str, better: bool | None, description: str, reason: str, confirmatory: bool = False
) -> Metric:
    """Return a metric that is the share of items with some property, its margin 1 item in 20."""
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


class Flips(Scorer):
    """Soft and hard label flips, judged by the editing variant itself, by the parent and independently.

    Notes `independent_judge` beside the scores: what the judge is, and its accuracy on the gold labels of the
    texts (see judges.accuracy).
    """

    method: ClassVar[str] = "flips"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = (
        "label flips of edits, judged by the variant itself, the parent and an independent judge; failures"
    )
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    reads: ClassVar[float] = 1.0
    metrics: ClassVar[tuple[Metric, ...]] = (
        proportion(
            "own_soft_flip",
            True,
            "The edit gets another label than the text, by the variant that wrote it.",
            "1 edit in 20 that works or fails: whoever reads 20 meets one other outcome.",
        ),
        proportion(
            "own_hard_flip",
            True,
            "The edit gets the label asked for, by the variant that wrote it.",
            "1 edit in 20 that gets the label asked for or misses it, as for soft flips.",
        ),
        proportion(
            "parent_soft_flip",
            True,
            "The edit gets another label than the text, by the unquantized parent.",
            "1 edit in 20 that works or fails, by one judge for all: whoever reads 20 meets one other outcome.",
            confirmatory=True,
        ),
        proportion(
            "parent_hard_flip",
            True,
            "The edit gets the label asked for, by the unquantized parent.",
            "1 edit in 20 that gets the label asked for or misses it, as for soft flips.",
        ),
        proportion(
            "independent_soft_flip",
            True,
            "The edit gets another label than the text, by a judge that is no variant; worth as much as the judge's "
            "accuracy on the texts.",
            _BLURRED,
        ),
        proportion(
            "independent_hard_flip",
            True,
            "The edit gets the label asked for, by a judge that is no variant; worth as much as the judge's accuracy "
            "on the texts.",
            _BLURRED,
        ),
        proportion(
            "failure",
            False,
            "There is no edit: cut off or unreadable, empty, equal to the text or copied, or a step failed.",
            "1 text in 20 without an edit; it counts as no flip, so no flip rate can lose more by it.",
        ),
    )

    independent: str = Field(
        default="embeddings",
        min_length=1,
        description="The independent judge: embeddings (a logistic regression on sentence embeddings), or the Hub id "
        "or directory of a sequence classifier or of a causal language model.",
    )
    independent_labels: dict[str, str] = Field(
        default_factory=dict,
        description="The data set's label for each label of such a classifier, where they differ in more than case.",
    )

    @property
    def models(self) -> tuple[str, ...]:
        """See Scorer.models."""
        return () if self.independent == "embeddings" else (self.independent,)

    def digest(self) -> str:
        """Return the method's digest, the wording of the label prompts and the training texts included."""
        return digest([super().digest(), labels.fingerprint(), judges.fingerprint()])

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        edits = rows_of(rows, CounterfactualRow)
        by_parent = judges.flips(
            "parent",
            lambda: judges.Prompted(context.parent, dataset, "the unquantized parent"),
            edits,
            dataset,
            context,
        )
        by_other = judges.flips(
            digest([self.independent, self.independent_labels]),
            lambda: judges.independent(self.independent, self.independent_labels, dataset, context),
            edits,
            dataset,
            context,
        )
        already = {}
        for name, found in (("parent", by_parent), ("independent", by_other)):
            if found.judge is not None:
                known = judges.accuracy(found.before, edits, dataset)
                context.note(f"{name}_judge", {"judge": found.judge.description, **known})
                # Such a text cannot flip softly by the very edit that was asked for, and flips hard without one.
                same = [label == row.target for label, row in zip(found.before, edits, strict=True)]
                already[name] = sum(same) / len(same)
        if already:
            context.note("own_judge", judges.accuracy([row.predicted for row in edits], edits, dataset))
            context.note("texts_with_the_target_label_already", already)
        for row, parent, other in zip(edits, by_parent.flips, by_other.flips, strict=True):
            values = (*judges.own_flips(row), *parent, *other, float(row.edited is None))
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)
