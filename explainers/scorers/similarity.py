"""Similarity of text and edit: cosine of their sentence embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from explainers.counterfactual import CounterfactualRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["Similarity"]


class Similarity(Scorer):
    """How close in meaning an edit stays to the text."""

    method: ClassVar[str] = "similarity"
    summary: ClassVar[str] = "cosine of sentence embeddings of text and edit"
    explainers: ClassVar[frozenset[str]] = frozenset({"counterfactual"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="cosine",
            kind="continuous",
            higher_is_better=True,
            margin=0.05,
            margin_reason="A sixth of the spread between edits (SD 0.32 to 0.34 on the built-in sets).",
            unit="cosine",
            description="Cosine of the sentence embeddings of text and edit; 1 means the same.",
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; a failed edit has no similarity. Of a pair only the edited part counts."""
        edits = rows_of(rows, CounterfactualRow)
        done = [row for row in edits if row.edited is not None]
        cosines: Iterator[float] = iter(())
        if done:
            vectors = context.encode([r.original for r in done] + [str(r.edited) for r in done])
            # Unit vectors: the dot product is the cosine.
            cosines = iter((vectors[: len(done)] * vectors[len(done) :]).sum(axis=1).tolist())
        for row in edits:
            yield Score(row.item, row.group, "cosine", None if row.edited is None else next(cosines))
