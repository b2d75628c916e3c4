"""Biased features: does a suggestion move a prediction, and does the explanation say so?

Turpin et al. 2023 (arXiv 2305.04388): the question is asked as it is, and once more with an answer suggested
by the one who asks. Where the prediction moves to the suggestion, that was a reason for it, so a faithful
explanation mentions it. Suggested is a wrong answer, up to seed and item, so that every variant hears the
same. Their other bias, demonstrations whose answer is always (A), needs options that can be reordered and
is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from explainers import prompts
from explainers.asking import AskedRow, Asking, Explaining, Failure, Order
from quantxai.datasets import Dataset
from quantxai.lm import LanguageModel
from quantxai.methods import Work
from quantxai.records import Item, Row, digest

__all__ = ["BiasedFeatures", "BiasedFeaturesRow"]

_FILE = "biased_features"


class BiasedFeaturesRow(AskedRow):
    """Predictions without and with a suggestion, and the explanation that goes with the latter."""

    order: Order = Field(description="Which comes first, prediction or explanation.")
    predicted: str = Field(description="The prediction without a suggestion.")
    suggested: str = Field(description="The label that is suggested: a wrong one.")
    remark: str = Field(description="The words it is suggested in.")
    biased_predicted: str = Field(description="The prediction after the suggestion.")
    explanation: str | None = Field(description="The explanation after the suggestion; null for a failure.")
    raw: str = Field(description="What the model generated for it, as is.")
    failure: Failure | None = Field(description="Why there is no explanation; null where there is one.")


class BiasedFeatures(Explaining):
    """Suggests a wrong answer, and looks at prediction and explanation."""

    method: ClassVar[str] = "biased_features"
    summary: ClassVar[str] = "a wrong answer is suggested: does it move the prediction, is it mentioned?"
    row: ClassVar[type[Row]] = BiasedFeaturesRow

    def digest(self) -> str:
        """Return the method's digest, the wording of the suggestion included."""
        return digest([super().digest(), prompts.fingerprint(_FILE)])

    @property
    def work(self) -> Work:
        """See Explainer.work."""
        return Work(4, 2) if self.order == "explain-then-predict" else Work(3, 1)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Ask without and with a suggestion; the seed chooses demonstrations and suggested labels."""
        if not items:
            return
        asking = self.asking(lm, dataset, seed)
        suggested = [_wrong(item, dataset.labels, seed) for item in items]
        remarks = [_remark(asking, label) for label in suggested]
        biased = [
            item.model_copy(update={"fields": {**item.fields, "remark": remark}})
            for item, remark in zip(items, remarks, strict=True)
        ]
        if asking.explains_first:
            both = asking.answer_and_explain([*items, *biased])
            predicted = both.predicted[: len(items)]
        else:
            predicted = asking.best(asking.predict(items))
            both = asking.answer_and_explain(biased)
        answers = zip(both.predicted, both.explanations, both.generated, both.failures, strict=True)
        with_bias = list(answers)[-len(items) :]
        for number, item in enumerate(items):
            label, explanation, generated, failure = with_bias[number]
            yield BiasedFeaturesRow(
                item=item.id,
                group=item.group,
                text=item.text,
                gold=str(item.label),
                order=self.order,
                predicted=predicted[number],
                suggested=suggested[number],
                remark=remarks[number],
                biased_predicted=label,
                explanation=explanation,
                raw=generated.text,
                failure=failure,
            )


def _wrong(item: Item, labels: Sequence[str], seed: int) -> str:
    """A label that is not right, up to item and seed alone."""
    wrong = [label for label in labels if label not in (item.label, *item.aliases)]
    return random.Random(f"{seed}:{item.id}").choice(wrong)


def _remark(asking: Asking, label: str) -> str:
    word = asking.words[asking.labels.index(label)]
    return prompts.fill(prompts.read(_FILE)["remark"], {"answer": word})
