"""Natural-language explanations: a model says why, before or after it says what.

How it is asked is in explainers.asking. What it would say if it were left to speak is parsed and stored
beside the scored prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from explainers.asking import AskedRow, Explaining, Failure, Order
from quantxai.datasets import Dataset
from quantxai.lm import LanguageModel
from quantxai.methods import Work
from quantxai.records import Item, Row, digest

__all__ = ["ExplanationRow", "NaturalLanguage"]


class ExplanationRow(AskedRow):
    """One explanation, with the prediction that goes with it."""

    reference: str | None = Field(description="The item's gold explanation; null where it has none.")
    order: Order = Field(description="Which comes first.")
    labels: list[str] = Field(description="The labels the scores belong to, in order.")
    scores: list[float] = Field(description="Calibrated log-probabilities of the labels, nats.")
    predicted: str = Field(description="The label with the highest score.")
    said: str | None = Field(description="The label read out of what the model says freely; null: none.")
    explanation: str | None = Field(description="The explanation; null for a failure.")
    raw: str = Field(description="What the model generated for it, as is.")
    failure: Failure | None = Field(description="Why there is no explanation; null where there is one.")
    stopped: Literal["stop", "end", "length"] = Field(description="Why generation ended.")
    tokens: int = Field(description="Number of generated tokens.")
    samples: list[str] = Field(
        default=[], description="Further explanations, sampled; failed ones are empty."
    )
    sample_labels: list[str] = Field(default=[], description="The prediction that goes with each of them.")


class NaturalLanguage(Explaining):
    """Asks the model to explain its prediction in words."""

    method: ClassVar[str] = "natural_language"
    summary: ClassVar[str] = "explanations in words, before or after the prediction they go with"
    row: ClassVar[type[Row]] = ExplanationRow

    samples: int = Field(default=0, ge=0, description="Further explanations, drawn at random, per item.")
    temperature: float = Field(default=0.7, gt=0, description="Temperature they are drawn at.")

    @property
    def work(self) -> Work:
        """See Explainer.work."""
        return Work(3 + 2 * self.samples, 1 + self.samples)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Predict and explain; the seed chooses the demonstrations and what is sampled."""
        if not items:
            return
        asking = self.asking(lm, dataset, seed)
        answered = asking.answer_and_explain(items)
        known = [text or "" for text in answered.explanations]
        said = asking.said(items, known if asking.explains_first else None)
        drawn = [
            asking.answer_and_explain(
                items,
                temperature=self.temperature,
                seeds=[int(digest([seed, item.id, number])[:12], 16) for item in items],
            )
            for number in range(self.samples)
        ]
        for index, item in enumerate(items):
            yield ExplanationRow(
                item=item.id,
                group=item.group,
                text=item.text,
                gold=str(item.label),
                reference=item.fields.get("explanation") or None,
                order=self.order,
                labels=list(asking.labels),
                scores=answered.scores[index].tolist(),
                predicted=answered.predicted[index],
                said=said[index],
                explanation=answered.explanations[index],
                raw=answered.generated[index].text,
                failure=answered.failures[index],
                stopped=answered.generated[index].stopped,
                tokens=answered.generated[index].tokens,
                samples=[sample.explanations[index] or "" for sample in drawn],
                sample_labels=[sample.predicted[index] for sample in drawn],
            )
