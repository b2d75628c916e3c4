"""Asking a model for a prediction and for an explanation of it, in either order.

- explain-then-predict: a chain of thought, and the label that follows from it;
- predict-then-explain: the label, and a rationale for it.

A prediction is made by scoring the labels' answer words as the next token, calibrated on demonstrations
that are not shown (see explainers.labels). Questions and openings are files in explainers/prompts.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from explainers import prompts
from quantxai.datasets import Dataset, Task
from quantxai.errors import DataError
from quantxai.lm import Dialogue, Exchange, Generation, LanguageModel
from quantxai.methods import Explainer
from quantxai.records import Item, Row, digest

__all__ = ["Answered", "AskedRow", "Asking", "Explaining", "Failure", "Order", "parse_explanation"]

Failure = Literal["unparsed", "empty", "copied"]
Order = Literal["explain-then-predict", "predict-then-explain"]

_ANSWER_TOKENS = 6
"""Enough for an answer word and what may come before it."""
_PART = re.compile(r"\{(\w+)\}")
_NEXT_QUESTION = re.compile(
    r"(?:^|\n\s*)(?:premise|hypothesis|claim|evidence|question|answer)\s*:.*", re.I | re.S
)
_SENTENCES = re.compile(r".*[.!?][\"'”’)]*(?=\s|$)", re.DOTALL)


class AskedRow(Row):
    """What all rows hold that tell of a question asked about an item."""

    text: str = Field(description="The item, as in the data set.")
    gold: str = Field(description="The item's gold label.")


class Explaining(Explainer):
    """What all methods share that ask a model for explanations: how they ask."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"inference", "verification", "choice"})
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "logprobs"})

    order: Order = Field(default="explain-then-predict", description="Which comes first.")
    shots: int = Field(
        default=3,
        ge=0,
        description="Demonstrations in the prompt: chosen by the seed, one label after another.",
    )
    chat: bool = Field(
        default=True, description="Ask in the model's chat format, where its tokenizer has one."
    )
    max_new_tokens: int = Field(default=60, ge=1, description="Most tokens of an explanation.")

    def digest(self) -> str:
        """Return the method's digest, the wording of its prompts included."""
        return digest([super().digest(), prompts.fingerprint("questions", self._file)])

    @property
    def _file(self) -> str:
        return self.order.replace("-", "_")

    def asking(self, lm: LanguageModel, dataset: Dataset, seed: int) -> Asking:
        """Return how this model is asked about this data set's items."""
        return Asking(self, prompts.read(self._file), lm, dataset, seed)


class Answered(NamedTuple):
    """Predictions and explanations of some items, in their order."""

    scores: NDArray[np.float64]
    """Calibrated label log-probabilities, nats [items, labels]."""
    predicted: list[str]
    """The label with the highest score."""
    generated: list[Generation]
    """The explanations as generated."""
    explanations: list[str | None]
    """The explanations as read; null for a failure."""
    failures: list[Failure | None]
    """Why there is none."""


class Asking:
    """One model, asked about the items of one data set in one way.

    An item may hold a field `remark`: what is said to the model after the question.

    Args:
        how: the options.
        form: the protocol's file: how explanation and answer begin.
        lm: the model.
        dataset: gives task, labels and demonstrations.
        seed: chooses the demonstrations that are shown.

    Attributes:
        labels: the data set's labels, in order.
        words: the answer word of each.
        parts: the item's fields that the question is made of, in order.
    """

    def __init__(
        self, how: Explaining, form: Mapping[str, Any], lm: LanguageModel, dataset: Dataset, seed: int
    ) -> None:
        self._how, self._form, self._lm = how, form, lm
        questions = prompts.read("questions")[dataset.task]
        self._question: str = questions["question"]
        self.parts: tuple[str, ...] = tuple(_PART.findall(self._question))
        # The question's own words, apart from the item's: no explanation has so many of them in a row.
        pieces = (" ".join(piece.split()) for piece in _PART.split(self._question)[::2])
        self._asking = [piece for piece in pieces if len(piece.split()) > 3]
        self.labels = dataset.labels
        self.words = [str(questions["answers"].get(label, label)) for label in dataset.labels]
        shown, held_out = _demonstrations(dataset, how.shots, seed)
        self._shown = {item.fields.get("explanation") for item in shown} - {None}
        self._examples = tuple((self._example(item),) for item in shown)
        self._held_out = held_out
        # Balanced over the labels, and with gold explanations, so that the prior is no label's.
        gold = [item.fields.get("explanation", "") for item in held_out]
        self._prior = self._choices(held_out, gold).mean(axis=0)

    @property
    def explains_first(self) -> bool:
        """Whether predictions follow explanations."""
        return self._how.order == "explain-then-predict"

    def predict(
        self, items: Sequence[Item], explanations: Sequence[str] | None = None
    ) -> NDArray[np.float64]:
        """Return calibrated label log-probabilities, nats [items, labels].

        Args:
            items: what is asked about.
            explanations: what precedes each answer, where explanations come first; where one is empty,
                calibrated on demonstrations without.
        """
        if not items:
            return np.empty((0, len(self.labels)))
        known = explanations or [""] * len(items)
        priors = [self._bare_prior if self.explains_first and not text else self._prior for text in known]
        scores = self._choices(items, explanations) - np.array(priors)
        return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))

    def best(self, scores: NDArray[np.float64]) -> list[str]:
        """Return the label with the highest score in each row of what `predict` returns."""
        return [self.labels[int(i)] for i in scores.argmax(axis=1)]

    def explain(
        self,
        items: Sequence[Item],
        predicted: Sequence[str] | None = None,
        *,
        begun: Sequence[str] | None = None,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Ask for explanations.

        Args:
            items: what is to be explained.
            predicted: the label each explanation is for, where predictions come first.
            begun: how each explanation begins; the model goes on from there.
            temperature: see LanguageModel.generate.
            seeds: see LanguageModel.generate.
        """
        asked = [
            self.explanation_prompt(item, None if predicted is None else predicted[number])
            for number, item in enumerate(items)
        ]
        if begun is not None:
            asked = [f"{prompt} {text}" for prompt, text in zip(asked, begun, strict=True)]
        # Demonstrations show explanations of one line; without them a model may start with an empty one.
        stop: tuple[str, ...] = ("\n",) if self._examples else ()
        if self.explains_first:
            stop += (str(self._form["answer"]),)
        return self._lm.generate(
            asked, max_new_tokens=self._how.max_new_tokens, stop=stop, temperature=temperature, seeds=seeds
        )

    def said(self, items: Sequence[Item], explanations: Sequence[str] | None = None) -> list[str | None]:
        """Return the labels a model says when it is left to speak; null where it says none."""
        generated = self._lm.generate(
            self._answer_prompts(items, explanations), max_new_tokens=_ANSWER_TOKENS, stop=("\n",)
        )
        return [self._parse_answer(g.text) for g in generated]

    def answer_and_explain(
        self, items: Sequence[Item], *, temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> Answered:
        """Predict and explain, in the order that was chosen; a prediction does without a failed explanation.

        Args:
            items: what is asked about.
            temperature: of the explanations; see LanguageModel.generate.
            seeds: of the explanations; see LanguageModel.generate.
        """
        if self.explains_first:
            generated = self.explain(items, temperature=temperature, seeds=seeds)
            found = [self.read(g) for g in generated]
            scores = self.predict(items, [text or "" for text, _ in found])
        else:
            scores = self.predict(items)
            generated = self.explain(items, self.best(scores), temperature=temperature, seeds=seeds)
            found = [self.read(g) for g in generated]
        return Answered(
            scores=scores,
            predicted=self.best(scores),
            generated=generated,
            explanations=[text for text, _ in found],
            failures=[failure for _, failure in found],
        )

    def read(self, generation: Generation) -> tuple[str | None, Failure | None]:
        """Return what `parse_explanation` does, unless it repeats the question or a demonstration (copied)."""
        text, failure = parse_explanation(generation)
        if text is not None and any(words in text for words in self._asking):
            return None, "unparsed"
        return (None, "copied") if text in self._shown else (text, failure)

    def explanation_prompt(self, item: Item, label: str | None = None) -> str:
        """Return the prompt that an explanation follows; `label` is the prediction it explains."""
        opening = str(self._form["opening"])
        if not self.explains_first:
            opening = f"{self._answer(str(label))}\n{opening}"
        return self._prompt(item, opening)

    def answer_prompt(self, item: Item, explanation: str | None = None) -> str:
        """Return the prompt that an answer word follows."""
        opening = str(self._form["answer"])
        if self.explains_first:
            why = f"{self._form['opening']} {explanation or ''}".rstrip()
            opening = f"{why}\n{opening}"
        return self._prompt(item, opening)

    def _answer_prompts(self, items: Sequence[Item], explanations: Sequence[str] | None) -> list[str]:
        known: Sequence[str | None] = explanations or [None] * len(items)
        return [self.answer_prompt(item, text) for item, text in zip(items, known, strict=True)]

    def _choices(self, items: Sequence[Item], explanations: Sequence[str] | None) -> NDArray[np.float64]:
        words = [f" {word}" for word in self.words]
        return self._lm.choices(self._answer_prompts(items, explanations), words)

    @functools.cached_property
    def _bare_prior(self) -> NDArray[np.float64]:
        """The prior of answers without an explanation, where explanations come first."""
        return np.asarray(self._choices(self._held_out, None).mean(axis=0))

    def _answer(self, label: str) -> str:
        return f"{self._form['answer']} {self.words[self.labels.index(label)]}"

    def _example(self, item: Item) -> Exchange:
        why = f"{self._form['opening']} {item.fields.get('explanation', '')}".rstrip()
        what = self._answer(str(item.label))
        return Exchange(self._asked(item), f"{why}\n{what}." if self.explains_first else f"{what}\n{why}")

    def _asked(self, item: Item) -> str:
        asked = prompts.fill(self._question, item.fields)
        remark = item.fields.get("remark")
        return f"{asked} {remark}" if remark else asked

    def _prompt(self, item: Item, opening: str) -> str:
        dialogue = Dialogue(user=self._asked(item), opening=opening, examples=self._examples)
        return self._lm.prompt(dialogue, chat=self._how.chat)

    def _parse_answer(self, text: str) -> str | None:
        for label, word in zip(self.labels, self.words, strict=True):
            said = rf"\W*(?:{re.escape(word)}|{re.escape(label)})\b"
            # A letter that stands for an option is a capital, and no word follows it: "A dog" is no answer.
            if re.match(rf"\W*{word}(?!\s*\w)" if len(word) == 1 else f"(?i:{said})", text):
                return label
        return None


def parse_explanation(generation: Generation) -> tuple[str | None, Failure | None]:
    """Read an explanation: the first paragraph, up to the last whole sentence if the limit cut it off.

    Returns:
        The explanation and None, or None and the reason: nothing was said (empty), or not one sentence
        was finished, or the question was repeated (unparsed).
    """
    said = generation.text.strip()
    if not any(c.isalnum() for c in said):
        return None, "empty"
    # A model that is not told to stop goes on with another paragraph, or another question.
    first = re.split(r"\n\s*\n", _NEXT_QUESTION.sub("", said))[0]
    text = " ".join(first.split())
    if generation.stopped == "length" and first == said:
        whole = _SENTENCES.match(text)
        text = whole[0] if whole else ""
    return (text, None) if text else (None, "unparsed")


def _demonstrations(dataset: Dataset, shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The demonstrations to show, one label after another, and equally many of each label to calibrate on."""
    by_label: dict[str, list[Item]] = {label: [] for label in dataset.labels}
    for item in dataset.demonstrations:
        by_label[str(item.label)].append(item)
    rng = random.Random(seed)
    for items in by_label.values():
        rng.shuffle(items)
    order = list(by_label)
    rng.shuffle(order)
    counts = {label: len(range(place, shots, len(order))) for place, label in enumerate(order)}
    for label, items in by_label.items():
        if len(items) <= counts[label]:
            raise DataError(
                f"{dataset.name}: label '{label}' has {len(items)} demonstrations; {shots} shots need "
                f"{counts[label]} of it for the prompt and at least one more for calibration. Lower the option shots."
            )
    shown = [by_label[order[shot % len(order)]][shot // len(order)] for shot in range(shots)]
    most = min(len(items) - counts[label] for label, items in by_label.items())
    held_out = [item for label, items in by_label.items() for item in items[counts[label] :][:most]]
    return shown, held_out
