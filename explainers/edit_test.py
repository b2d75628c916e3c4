"""Counterfactual edit test: is an inserted word that flips a prediction mentioned in the explanation?

Atanasova et al. 2023 (arXiv 2305.18029): insert an adjective before a noun or an adverb before a verb, and
take an insertion after which the prediction is another one. The word was then a reason for the new
prediction, so a faithful explanation of it mentions the word.

Here words come from a fixed list (explainers/prompts/edit_words.toml) and are put between any two words of
the hypothesis, the claim or the question: a tagger would be one more model, and an ungrammatical insertion
that flips a prediction is a reason for it all the same. Which words are tried where is up to seed and item,
so every variant is tried with the same ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from explainers import prompts
from explainers.asking import AskedRow, Asking, Explaining, Failure, Order
from quantxai.datasets import Dataset
from quantxai.lm import Generation, LanguageModel
from quantxai.methods import Work
from quantxai.records import Item, Row, digest

__all__ = ["EditTest", "EditTestRow"]

_WORDS = "edit_words"
_PART = {"inference": "hypothesis", "verification": "claim", "choice": "question"}


class EditTestRow(AskedRow):
    """The first insertion that flips the prediction, with the explanation of the new one."""

    part: str = Field(description="Which part of the item a word is inserted into.")
    original: str = Field(description="That part before the insertion.")
    predicted: str = Field(description="The prediction before the insertion.")
    tried: int = Field(description="Number of insertions tried.")
    flipped: int = Field(description="How many of them change the prediction.")
    inserted: str | None = Field(
        default=None, description="The word of the first one that does; null where none does, as all below."
    )
    place: int | None = Field(default=None, description="Number of words before it.")
    edited: str | None = Field(default=None, description="The part with the word.")
    edited_predicted: str | None = Field(default=None, description="The prediction after the insertion.")
    explanation: str | None = Field(
        default=None, description="The explanation of that prediction; null for a failure too."
    )
    raw: str | None = Field(default=None, description="What the model generated for it, as is.")
    failure: Failure | None = Field(
        default=None, description="Why there is no explanation; null where none was asked for."
    )


class _Insertion(NamedTuple):
    word: str
    place: int
    text: str


class _Answer(NamedTuple):
    label: str
    generated: Generation | None = None


class EditTest(Explaining):
    """Inserts a word that changes the prediction, and asks for an explanation of the new one."""

    method: ClassVar[str] = "edit_test"
    summary: ClassVar[str] = "counterfactual edit test: does an explanation mention the word that flipped it?"
    row: ClassVar[type[Row]] = EditTestRow

    order: Order = Field(
        default="predict-then-explain",
        description="Which comes first; explanations first need one for every word tried.",
    )
    candidates: int = Field(default=8, ge=1, description="Most words tried per item, all in one batch.")

    def digest(self) -> str:
        """Return the method's digest, the list of words included."""
        return digest([super().digest(), prompts.fingerprint(_WORDS)])

    @property
    def work(self) -> Work:
        """See Explainer.work."""
        if self.order == "explain-then-predict":
            return Work(2 * (1 + self.candidates), 1 + self.candidates)
        return Work(2 + self.candidates, 1)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Predict before and after insertions; explain where one flips. The seed chooses the insertions."""
        if not items:
            return
        asking, part = self.asking(lm, dataset, seed), _PART[dataset.task]
        tried = [_insertions(item, part, self.candidates, seed) for item in items]
        edits = [
            _with(item, part, insertion.text)
            for item, insertions in zip(items, tried, strict=True)
            for insertion in insertions
        ]
        answers = iter(_answers(asking, [*items, *edits]))
        before = [next(answers) for _ in items]
        after = [[next(answers) for _ in insertions] for insertions in tried]
        flips = [
            [number for number, answer in enumerate(found) if answer.label != original.label]
            for original, found in zip(before, after, strict=True)
        ]
        flipped = [i for i in range(len(items)) if flips[i]]
        inserted = {i: tried[i][flips[i][0]] for i in flipped}
        answered = {i: after[i][flips[i][0]] for i in flipped}
        if not asking.explains_first and flipped:
            edited = [_with(items[i], part, inserted[i].text) for i in flipped]
            generated = asking.explain(edited, [answered[i].label for i in flipped])
            answered = {i: _Answer(answered[i].label, g) for i, g in zip(flipped, generated, strict=True)}
        for number, item in enumerate(items):
            observed = EditTestRow(
                item=item.id,
                group=item.group,
                part=part,
                original=item.fields[part],
                text=item.text,
                gold=str(item.label),
                predicted=before[number].label,
                tried=len(tried[number]),
                flipped=len(flips[number]),
            )
            if number in answered:
                observed = observed.model_copy(update=_found(asking, inserted[number], answered[number]))
            yield observed


def _insertions(item: Item, part: str, most: int, seed: int) -> list[_Insertion]:
    """What is tried on an item, in this order: distinct words that its text does not hold."""
    rng = random.Random(f"{seed}:{item.id}")
    listed = prompts.read(_WORDS)
    held = set(re.findall(r"\w+", item.text.casefold()))
    words = [word for word in [*listed["adjectives"], *listed["adverbs"]] if word not in held]
    before = item.fields[part].split()
    found = []
    for word in rng.sample(words, min(most, len(words))):
        # Between two words: a word in front of the first would have to take over its capital letter.
        place = rng.randrange(1, max(len(before), 2))
        found.append(_Insertion(word, place, " ".join([*before[:place], word, *before[place:]])))
    return found


def _with(item: Item, part: str, text: str) -> Item:
    return item.model_copy(update={"fields": {**item.fields, part: text}})


def _answers(asking: Asking, items: Sequence[Item]) -> list[_Answer]:
    """Predictions, with the explanations they follow where explanations come first."""
    if asking.explains_first:
        answered = asking.answer_and_explain(items)
        return [_Answer(*pair) for pair in zip(answered.predicted, answered.generated, strict=True)]
    return [_Answer(label) for label in asking.best(asking.predict(items))]


def _found(asking: Asking, insertion: _Insertion, answer: _Answer) -> dict[str, Any]:
    explanation, failure = asking.read(answer.generated) if answer.generated else (None, None)
    return {
        "inserted": insertion.word,
        "place": insertion.place,
        "edited": insertion.text,
        "edited_predicted": answer.label,
        "explanation": explanation,
        "raw": answer.generated.text if answer.generated else None,
        "failure": failure,
    }
