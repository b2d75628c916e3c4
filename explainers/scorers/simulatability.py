"""Simulatability: does an explanation help to predict what the model answered?

A judge predicts the model's own answer, right or wrong, three times: from the item and the explanation (x, e),
from the item alone (x), and from the explanation alone (e). The gain of an explanation is
1[right from x, e] - 1[right from x]. An explanation that gives the answer away ("... so the answer is no") gains
without explaining: it is called leaking where the judge is right from e alone. Leakage-adjusted simulatability
(LAS, Hase et al. 2020, arXiv 2010.04119) is the mean of the mean gains of the two groups, so that leaking
explanations count no more than the others, however many there are.

LAS belongs to a set of items. Its two halves are measured item by item, `gain_leaking` and `gain_nonleaking`, each
null for the items of the other group: LAS is the mean of their means, and is noted for each cell with the number
of items in either group. Compared between variants, a half covers the items that are in that group for both.

The paper fine-tunes the judge on the model's answers. Here it is a language model that is shown a few worked
examples with gold answers and gold explanations, the same for every variant, and calibrated on further ones (see
explainers.labels); the answer words are compared as the next token, so that a judge always answers. SmolLM2-135M,
given gold explanations, predicts 61 % of the gold labels of 36 built-in inference pairs, 56 % from the pairs alone
and 58 % from the explanations alone (chance 33 %): a weak judge that a larger model should replace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from explainers import labels, prompts
from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.errors import DataError
from quantxai.lm import Dialogue, Exchange, LanguageModel
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Item, Metric, Row, digest

__all__ = ["Simulatability", "leakage_adjusted"]

View = Literal["item and explanation", "item", "explanation"]
_VIEWS: tuple[View, ...] = ("item and explanation", "item", "explanation")


def leakage_adjusted(gains: Sequence[float], leaks: Sequence[bool]) -> float | None:
    """Return LAS: the mean of the mean gain of leaking explanations and that of the others.

    Args:
        gains: 1[right from x, e] - 1[right from x] of each item: -1, 0 or 1.
        leaks: whether the judge is right from the explanation alone.

    Returns:
        Between -1 and 1; null where a group is empty and so has no mean.
    """
    groups = [
        [gain for gain, leak in zip(gains, leaks, strict=True) if leak is want] for want in (True, False)
    ]
    return float(np.mean([np.mean(group) for group in groups])) if all(groups) else None


def _proportion(name: str, better: bool | None, description: str, reason: str) -> Metric:
    return Metric(
        name=name,
        kind="binary",
        higher_is_better=better,
        margin=0.05,
        margin_reason=reason,
        unit="proportion",
        description=description,
    )


def _gain(name: str, which: str) -> Metric:
    return Metric(
        name=name,
        kind="continuous",
        higher_is_better=True,
        margin=0.05,
        margin_reason=f"1 item in 20 that is predicted with the explanation and not without it, {which}.",
        unit="proportion",
        description="How much more often a judge predicts the model's answer with the explanation than without it, "
        f"{which}: 1, 0 or -1 for each item. No value without an explanation.",
    )


class Simulatability(Scorer):
    """Whether a judge that reads the explanation predicts the model's answer better."""

    method: ClassVar[str] = "simulatability"
    summary: ClassVar[str] = (
        "does the explanation help a judge to predict the model's answer; adjusted for leakage"
    )
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    reads: ClassVar[float] = 3.0
    metrics: ClassVar[tuple[Metric, ...]] = (
        _proportion(
            "simulated",
            True,
            "A judge that reads item and explanation predicts the model's answer, be it right or wrong; no value "
            "without an explanation.",
            "1 item in 20 whose answer the judge foresees or does not.",
        ),
        _proportion(
            "simulated_without_explanation",
            # How predictable a model is, not how well it explains.
            None,
            "A judge that reads the item alone predicts the model's answer.",
            "1 item in 20 whose answer the judge foresees or does not.",
        ),
        _proportion(
            "leaks",
            # What leaks depends on the protocol; the adjusted gains say what it is worth.
            None,
            "A judge that reads the explanation alone predicts the model's answer: it may give the answer away. No "
            "value without an explanation.",
            "1 explanation in 20 that gives the answer away or does not.",
        ),
        _gain("gain", "over all items"),
        _gain("gain_leaking", "over items whose explanation alone gives the answer away"),
        _gain("gain_nonleaking", "over items whose explanation alone does not give the answer away"),
    )

    model: str = Field(
        default="parent",
        min_length=1,
        description="The judge: parent, or a causal language model by registered name, Hub id or directory.",
    )
    chat: bool = Field(
        default=True, description="Ask in the judge's chat format, where its tokenizer has one."
    )

    @property
    def models(self) -> tuple[str, ...]:
        """See Scorer.models."""
        return () if self.model == "parent" else (self.model,)

    def digest(self) -> str:
        """Return the method's digest, the wording of its prompts included."""
        return digest([super().digest(), prompts.fingerprint("simulatability", "questions")])

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores.

        Raises:
            DataError: the data set has too few demonstrations with an explanation.
        """
        explained = rows_of(rows, ExplanationRow)
        if not explained:
            return
        items = {item.id: item for item in dataset.items}
        every = [items[row.item] for row in explained]
        done = [row for row in explained if row.explanation is not None]
        asked, texts = [items[row.item] for row in done], [str(row.explanation) for row in done]
        key = [self.digest(), dataset.model_dump(mode="json")]
        judge = context.remember(digest(key), lambda: _Judge(self._lm(context), dataset, self.chat))
        # Every variant is asked about the same items.
        alone = context.remember(
            digest([*key, [item.id for item in every]]),
            lambda: judge.answers(self._lm(context), "item", every),
        )
        lm = self._lm(context)
        from_item = _right(explained, alone)
        from_both = _right(done, judge.answers(lm, "item and explanation", asked, texts))
        leaking = _right(done, judge.answers(lm, "explanation", asked, texts))
        gains = {row.item: float(from_both[row.item]) - float(from_item[row.item]) for row in done}
        context.note("judge", self.model)
        context.note(
            "leakage_adjusted_simulatability", leakage_adjusted([*gains.values()], [*leaking.values()])
        )
        context.note("leaking", sum(leaking.values()))
        context.note("nonleaking", len(leaking) - sum(leaking.values()))
        for row in explained:
            values: tuple[float | None, ...] = (None, float(from_item[row.item]), None, None, None, None)
            if row.item in gains:
                gain, leaks = gains[row.item], leaking[row.item]
                values = (
                    float(from_both[row.item]),
                    float(from_item[row.item]),
                    float(leaks),
                    gain,
                    gain if leaks else None,
                    None if leaks else gain,
                )
            for metric, value in zip(self.metrics, values, strict=True):
                yield Score(row.item, row.group, metric.name, value)

    def _lm(self, context: ScoringContext) -> LanguageModel:
        return context.parent() if self.model == "parent" else context.model(self.model)


def _right(rows: Sequence[ExplanationRow], answers: Sequence[str]) -> dict[str, bool]:
    """Whether an answer is the model's own, by item."""
    return {row.item: answer == row.predicted for row, answer in zip(rows, answers, strict=True)}


class _Judge:
    """Asks a language model what another one answered; each view of an item has a prior of its own.

    Args:
        lm: computes the priors; the model that is to judge.
        dataset: gives task, labels and demonstrations.
        chat: ask in the model's chat format.
    """

    def __init__(self, lm: LanguageModel, dataset: Dataset, chat: bool) -> None:
        self._form, self._chat, self._labels = prompts.read("simulatability"), chat, dataset.labels
        task = prompts.read("questions")[dataset.task]
        self._words = {label: str(task["answers"].get(label, label)) for label in dataset.labels}
        self._questions = {True: str(task["question"]), False: str(self._form["hidden"][dataset.task])}
        explained = tuple(d for d in dataset.demonstrations if d.fields.get("explanation"))
        if not explained:
            raise DataError(
                f"{dataset.name}: its demonstrations have no explanations, which the judge of simulatability is shown; "
                "leave that scorer out, or give a data set with gold explanations"
            )
        shown, held_out = labels.split(
            dataset.model_copy(update={"demonstrations": explained}), self._form["shots"]
        )
        gold = [d.fields["explanation"] for d in held_out]
        self._examples = {
            view: tuple(
                (Exchange(self._asked(view, d, d.fields["explanation"]), self._answered(str(d.label))),)
                for d in shown
            )
            for view in _VIEWS
        }
        self._priors = {view: self._choices(lm, view, held_out, gold).mean(axis=0) for view in _VIEWS}

    def answers(
        self, lm: LanguageModel, view: View, items: Sequence[Item], explanations: Sequence[str] = ()
    ) -> list[str]:
        """Return the label the judge expects for each item, seen in this way."""
        if not items:
            return []
        scores = self._choices(lm, view, items, explanations or [""] * len(items)) - self._priors[view]
        return [self._labels[int(i)] for i in scores.argmax(axis=1)]

    def _choices(
        self, lm: LanguageModel, view: View, items: Sequence[Item], explanations: Sequence[str]
    ) -> NDArray[np.float64]:
        asked = [
            lm.prompt(
                Dialogue(
                    user=self._asked(view, item, text),
                    opening=str(self._form["answer"]),
                    examples=self._examples[view],
                ),
                chat=self._chat,
            )
            for item, text in zip(items, explanations, strict=True)
        ]
        return lm.choices(asked, [f" {word}" for word in self._words.values()])

    def _asked(self, view: View, item: Item, explanation: str) -> str:
        lines = [prompts.fill(self._questions[view != "explanation"], item.fields)]
        if view != "item":
            lines.append(prompts.fill(self._form["explanation"], {"explanation": explanation}))
        return "\n".join([*lines, str(self._form["question"])])

    def _answered(self, label: str) -> str:
        return f"{self._form['answer']} {self._words[label]}."
