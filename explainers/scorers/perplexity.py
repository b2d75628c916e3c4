"""Fluency of edits: mean negative log-likelihood under the unquantized parent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from explainers.counterfactual import CounterfactualRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Perplexity"]


class Perplexity(Scorer):
    """How fluent the parent finds an edit, read on its own.

    Perplexity is exp of the mean negative log-likelihood per token, in nats. The measurement is its
    logarithm, which can be averaged over items: exp of the mean is the geometric mean perplexity.
    """

    method: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "log perplexity of edits under the parent"
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="nll",
            kind="continuous",
            higher_is_better=False,
            # 0.1 nats are 10 % of perplexity.
            margin=0.1,
            unit="nats per token",
            description="Mean negative log-likelihood of the edit's tokens under the unquantized parent; "
            "perplexity = exp(nll). Lower is more fluent.",
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a failed edit has no value, nor one of which no token could be scored."""
        edits = rows_of(rows, CounterfactualRow)
        texts = list(dict.fromkeys(row.edited for row in edits if row.edited is not None))
        values: dict[str, float] = {}
        if texts:
            for text, scored in zip(texts, context.parent().logprobs([""] * len(texts), texts), strict=True):
                if scored.logprobs:
                    values[text] = -sum(scored.logprobs) / len(scored.logprobs)
        for row in edits:
            yield Score(row.item, row.group, "nll", values.get(row.edited) if row.edited else None)
