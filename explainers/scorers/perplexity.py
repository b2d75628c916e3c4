"""Fluency of edits: mean negative log-likelihood under one fixed language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from explainers.counterfactual import CounterfactualRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Perplexity"]


class Perplexity(Scorer):
    """How fluent the parent, or another language model, finds an edit, read on its own.

    The parent shares its weights with the variants; an unrelated model does not (the papers took GPT-2).
    Perplexity is exp of the mean negative log-likelihood per token, in nats. The measurement is its
    logarithm, which can be averaged over items: exp of the mean is the geometric mean perplexity.
    """

    method: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "log perplexity of edits under the parent or another language model"
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    reads: ClassVar[float] = 1.0
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="nll",
            kind="continuous",
            higher_is_better=False,
            margin=0.1,
            margin_reason="A tenth of the perplexity: on news, 8-bit weights cost SmolLM2-135M less and 4-bit ones "
            "more (docs/quantizers.md).",
            unit="nats per token",
            description="Mean negative log-likelihood of the edit's tokens under one language model for all variants: "
            "the unquantized parent, or the one that the option model names. perplexity = exp(nll). Lower is more "
            "fluent.",
        ),
    )

    model: str = Field(
        default="parent",
        min_length=1,
        description="Whose likelihood: parent, or a causal language model by registered name, Hub id or directory.",
    )

    @property
    def models(self) -> tuple[str, ...]:
        """See Scorer.models."""
        return () if self.model == "parent" else (self.model,)

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a failed edit has no value, nor one of which no token could be scored."""
        edits = rows_of(rows, CounterfactualRow)
        texts = list(dict.fromkeys(row.edited for row in edits if row.edited is not None))
        values: dict[str, float] = {}
        if texts:
            lm = context.parent() if self.model == "parent" else context.model(self.model)
            for text, scored in zip(texts, lm.logprobs([""] * len(texts), texts), strict=True):
                if scored.logprobs:
                    values[text] = -sum(scored.logprobs) / len(scored.logprobs)
        for row in edits:
            yield Score(row.item, row.group, "nll", values.get(row.edited) if row.edited else None)
