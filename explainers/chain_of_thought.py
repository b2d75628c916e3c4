"""Does a prediction follow from its chain of thought? Early answering and added mistakes.

Lanham et al. 2023 (arXiv 2307.13702). Early answering: the chain is cut off after each of its sentences and
the model has to answer there. Added mistakes: one sentence is replaced by one with a mistake, the model
goes on from there, and answers. A prediction that stays the same either way was not made by the chain.

The mistake is made by rule: a sentence is negated. Lanham et al. ask a language model of their own for one.
Here that would be the variant under test: a damaged variant makes other, worse mistakes, so the instrument
would change with what it measures (and one of 135 million parameters mostly copies the sentence).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from explainers.asking import AskedRow, Explaining, Failure, Order
from quantxai.datasets import Dataset
from quantxai.lm import LanguageModel
from quantxai.methods import Work
from quantxai.records import Item, Row

__all__ = ["ChainOfThought", "ChainOfThoughtRow", "negated", "sentences"]

_SENTENCE = re.compile(r"\S.*?(?:[.!?]+[\"'”’)]*(?=\s|$)|$)")
_NOT = re.compile(r"(?:^|\s+)not\b|n['’]t\b", re.IGNORECASE)
_IRREGULAR = {"can't": "can", "cannot": "can", "won't": "will", "shan't": "shall"}
_CONTRACTED = re.compile(r"\b(?:can['’]t|cannot|won['’]t|shan['’]t)(?!\w)", re.IGNORECASE)
_VERB = re.compile(
    r"\b(?:is|are|was|were|am|has|have|had|does|do|did|can|could|will|would|may|might|must|shall|should)\b",
    re.IGNORECASE,
)


class ChainOfThoughtRow(AskedRow):
    """A chain of thought, with the predictions that follow from parts of it."""

    predicted: str = Field(description="The prediction after the whole chain.")
    sentences: list[str] = Field(description="The chain, sentence by sentence; empty for a failure.")
    early: list[str] = Field(
        description="The predictions after its first 0, 1 ... sentences, without the last; empty for a failure."
    )
    mistake: int | None = Field(
        description="Number of sentences before the one with the mistake; null for a failure, as all below."
    )
    mistaken: str | None = Field(description="The sentence with the mistake.")
    continued: str | None = Field(description="What the model goes on with after it; may be empty.")
    mistaken_predicted: str | None = Field(description="The prediction after all that.")
    raw: str = Field(description="What the model generated for the chain, as is.")
    failure: Failure | None = Field(description="Why there is no chain; null where there is one.")


class ChainOfThought(Explaining):
    """Cuts chains of thought off, adds mistakes to them, and asks for the prediction again."""

    method: ClassVar[str] = "chain_of_thought"
    summary: ClassVar[str] = "early answering and added mistakes: does the prediction follow from the chain?"
    row: ClassVar[type[Row]] = ChainOfThoughtRow

    @field_validator("order")
    @classmethod
    def _explains_first(cls, order: Order) -> Order:
        if order != "explain-then-predict":
            raise ValueError(
                "chain_of_thought changes the explanation a prediction follows from, and with "
                f"order = '{order}' none precedes it; leave order out or choose edit_test or cc_shap"
            )
        return order

    @property
    def work(self) -> Work:
        """See Explainer.work: a chain of about three sentences, and what follows the mistake."""
        return Work(7, 2)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Explain and predict, then predict from parts of the chain and from a mistaken one.

        The seed chooses the demonstrations, and the sentence that the mistake is made in.
        """
        if not items:
            return
        asking = self.asking(lm, dataset, seed)
        answered = asking.answer_and_explain(items)
        chains = [sentences(text or "") for text in answered.explanations]
        done = [i for i, chain in enumerate(chains) if chain]
        cut = [(i, " ".join(chains[i][:length])) for i in done for length in range(len(chains[i]))]
        places = {i: random.Random(f"{seed}:{items[i].id}").randrange(len(chains[i])) for i in done}
        wrong = {i: negated(chains[i][places[i]]) for i in done}
        begun = [" ".join([*chains[i][: places[i]], wrong[i]]) for i in done]
        generated = asking.explain([items[i] for i in done], begun=begun) if done else []
        rest = {i: asking.read(g)[0] or "" for i, g in zip(done, generated, strict=True)}
        mistaken = [(i, f"{text} {rest[i]}".rstrip()) for i, text in zip(done, begun, strict=True)]
        asked = cut + mistaken
        scores = asking.predict([items[i] for i, _ in asked], [text for _, text in asked])
        labels = iter(asking.best(scores))
        early = {i: [next(labels) for _ in chains[i]] for i in done}
        after_mistake = {i: next(labels) for i in done}
        for number, item in enumerate(items):
            yield ChainOfThoughtRow(
                item=item.id,
                group=item.group,
                text=item.text,
                gold=str(item.label),
                predicted=answered.predicted[number],
                sentences=chains[number],
                early=early.get(number, []),
                mistake=places.get(number),
                mistaken=wrong.get(number),
                continued=rest.get(number),
                mistaken_predicted=after_mistake.get(number),
                raw=answered.generated[number].text,
                failure=answered.failures[number],
            )


def sentences(text: str) -> list[str]:
    """Split a text after full stops, question and exclamation marks that white space follows.

    >>> sentences('It is 3.5 m. "Is it?" Yes')
    ['It is 3.5 m.', '"Is it?"', 'Yes']
    """
    return [found[0].strip() for found in _SENTENCE.finditer(" ".join(text.split()))]


def negated(sentence: str) -> str:
    """Return a sentence that says the opposite: a "not" less, or one after its first auxiliary verb.

    >>> negated("The oven is hot."), negated("He isn't old."), negated("Dogs bark.")
    ('The oven is not hot.', 'He is old.', 'It is not true that dogs bark.')
    """
    if found := _CONTRACTED.search(sentence):
        affirmed = _IRREGULAR[found[0].casefold().replace("’", "'")]
        return sentence[: found.start()] + affirmed + sentence[found.end() :]
    if _NOT.search(sentence):
        return _NOT.sub("", sentence, count=1).strip()
    if verb := _VERB.search(sentence):
        return f"{sentence[: verb.end()]} not{sentence[verb.end() :]}"
    first = sentence.split(maxsplit=1)[0]
    # "I" and abbreviations keep their capitals.
    same = (len(first) > 1 and not first[1:].islower()) or first == "I"
    return f"It is not true that {sentence if same else sentence[:1].lower() + sentence[1:]}"
