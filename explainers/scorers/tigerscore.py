"""TIGERScore (Jiang et al. 2023, arXiv 2310.00752): a trained judge lists the errors of an explanation.

The judge names each error and a penalty of 0.5 to 5 points; the score is minus their sum, 0 for no error. It is
computed from the penalties listed: the authors' code reads the total that the judge writes itself, with an
expression that stops at the decimal point ("total score reduction of 4.5" becomes 4).

A judge of this kind has to be named with the option `model` (the paper's are TIGER-Lab/TIGERScore-7B and -13B);
another model does not keep the format. So the scorer runs only where a configuration names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from explainers import prompts
from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row, digest

__all__ = ["TigerScore", "penalties"]

_COUNT = re.compile(r"\bcontains (\d+|no) errors?\b", re.IGNORECASE)
# The models write penalties with and without a sign, and some in the line after.
_PENALTY = re.compile(r"^Score reduction (\d+):\s*-?\s*(\d+(?:\.\d+)?)", re.MULTILINE)
_FIELDS = ("Error location", "Error aspect", "Explanation", "Severity")


def penalties(output: str) -> list[float] | None:
    """Return the penalty of every error in a judge's output, points; null where it cannot be read.

    It can be read if it says how many errors there are and lists as many, each with location, aspect,
    explanation, severity and score reduction. A text that the limit cut off therefore cannot.

    >>> penalties("The model-generated output contains 0 errors, with a total score reduction of 0.")
    []
    """
    said = _COUNT.search(output)
    if said is None:
        return None
    count = 0 if said[1].lower() == "no" else int(said[1])
    numbers = [str(number) for number in range(1, count + 1)]
    for field in _FIELDS:
        if re.findall(rf"^{field} (\d+):", output, re.MULTILINE) != numbers:
            return None
    found = _PENALTY.findall(output)
    return [float(points) for _, points in found] if [number for number, _ in found] == numbers else None


class TigerScore(Scorer):
    """What a trained judge finds wrong with an explanation."""

    method: ClassVar[str] = "tigerscore"
    summary: ClassVar[str] = (
        "errors in explanations as a TIGERScore model lists them (needs the option model)"
    )
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    reads: ClassVar[float] = 3.0
    optional: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="tigerscore",
            kind="continuous",
            higher_is_better=True,
            margin=0.5,
            margin_reason="The smallest penalty there is: one minor error more or fewer in every explanation.",
            unit="points",
            description="Minus the sum of the penalties for the errors that a TIGERScore model finds in the "
            "explanation: 0 for none, 0.5 to 5 points for each. No value where there is no explanation or the "
            "judge's answer cannot be read.",
        ),
        Metric(
            name="errors",
            kind="continuous",
            higher_is_better=False,
            margin=0.25,
            margin_reason="One error more or fewer in every fourth explanation.",
            unit="errors",
            description="Number of errors that a TIGERScore model finds in the explanation; no value where there is "
            "none or its answer cannot be read.",
        ),
        Metric(
            name="unreadable",
            kind="binary",
            # It says something about the judge, not about the explanation.
            higher_is_better=None,
            margin=0.05,
            margin_reason="1 answer in 20 that cannot be read: as many values are then missing.",
            unit="proportion",
            description="The judge's answer cannot be read, so that the explanation has no TIGERScore; no value "
            "where there is no explanation.",
        ),
    )

    model: str | None = Field(
        default=None,
        min_length=1,
        description="The judge by Hub id or directory, such as TIGER-Lab/TIGERScore-7B; without one, no values.",
    )
    max_new_tokens: int = Field(default=512, ge=1, description="Most tokens of the judge's answer.")

    @property
    def models(self) -> tuple[str, ...]:
        """See Scorer.models."""
        return () if self.model is None else (self.model,)

    def digest(self) -> str:
        """Return the method's digest, the wording of its prompt included."""
        return digest([super().digest(), prompts.fingerprint("tigerscore", "questions")])

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        explained = rows_of(rows, ExplanationRow)
        context.note(
            "model", self.model or "none given: all values are missing; name one with the option model"
        )
        done = [row for row in explained if row.explanation is not None] if self.model else []
        answers: dict[str, str] = {}
        if done:
            asked = self._prompts(done, dataset)
            generated = context.model(str(self.model)).generate(asked, max_new_tokens=self.max_new_tokens)
            answers = {row.item: answer.text for row, answer in zip(done, generated, strict=True)}
        for row in explained:
            values: tuple[float | None, ...] = (None, None, None)
            if row.item in answers:
                found = penalties(answers[row.item])
                values = (None, None, 1.0) if found is None else (0.0 - sum(found), float(len(found)), 0.0)
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)

    def _prompts(self, rows: Sequence[ExplanationRow], dataset: Dataset) -> list[str]:
        form, task = prompts.read("tigerscore"), prompts.read("questions")[dataset.task]
        items = {item.id: item for item in dataset.items}
        return [
            prompts.fill(
                form["question"],
                {
                    "instruction": prompts.fill(
                        form["instruction"], {"answer": task["answers"].get(row.predicted, row.predicted)}
                    ),
                    "source": prompts.fill(task["question"], items[row.item].fields),
                    "output": str(row.explanation),
                },
            )
            for row in rows
        ]
