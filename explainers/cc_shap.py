"""CC-SHAP: do prediction and explanation rest on the same words of the input?

Parcalabescu & Frank 2024 (arXiv 2311.07466). Every word j of the input has a contribution phi_j, its Shapley
value, to the prediction and to each token of the explanation. Per output token, contributions become
ratios r_j = phi_j / sum_i |phi_i|; those of the explanation are averaged over its tokens. CC-SHAP is the
cosine of the two lists of ratios (see explainers.scorers.faithfulness).

The game's value for a coalition is the log-probability, in nats over the whole vocabulary, of the predicted
answer's first token, and of each token of the explanation given those before it, where all other words are
masked. The paper's code takes log-odds; for a token that is nearly certain these are unbounded, and in
bfloat16 infinite. As there, a run of masked words becomes one "...", and the prediction is the one made
without an explanation, also where explanations come first: otherwise the input would mostly act on the
prediction through an explanation that is held fixed.

Players are words, neighbours joined where a text has more than `players`: with as many players as a long text
has tokens, estimates would need thousands of passes. How far an estimate is off is in benchmarks/cc_shap.py.
In bfloat16 rounding adds to it: on a pair looked at it moved the log-probabilities of SmolLM2-135M's answer by
0.1 nats, where words contribute 0.1 nats each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from explainers.asking import AskedRow, Asking, Explaining, Failure, Order
from explainers.shapley import coalitions, shapley_values
from quantxai.datasets import Dataset
from quantxai.lm import LanguageModel
from quantxai.methods import Work
from quantxai.records import Item, Row, digest

__all__ = ["CCSHAP", "CCSHAPRow", "Player", "games", "masked", "players_of", "ratios"]

MASK = "..."
"""What shap's text masker puts in place of masked tokens where the tokenizer has no mask token."""


class CCSHAPRow(AskedRow):
    """Contributions of the input's words to prediction and explanation."""

    order: Order = Field(description="Which comes first, prediction or explanation.")
    predicted: str = Field(description="The prediction, made without an explanation.")
    explanation: str | None = Field(description="The explanation; null for a failure.")
    raw: str = Field(description="What the model generated for it, as is.")
    failure: Failure | None = Field(description="Why there is no explanation; null where there is one.")
    players: list[str] = Field(description="Words that are masked together, in the question's order.")
    to_prediction: list[float] = Field(
        description="Their Shapley values for the predicted answer's log-probability, nats; empty for a failure."
    )
    to_explanation: list[float] = Field(
        description="Their contribution ratios, averaged over the explanation's tokens; empty for a failure."
    )
    tokens: int = Field(description="Number of tokens of the explanation; 0 for a failure.")
    coalitions: int = Field(description="Number of masked inputs evaluated, each twice; 0 for a failure.")


class Player(NamedTuple):
    """Words that stand together in one part of an item."""

    part: str
    words: str


class CCSHAP(Explaining):
    """Compares what a prediction and its explanation rest on, word by word."""

    method: ClassVar[str] = "cc_shap"
    summary: ClassVar[str] = "CC-SHAP: contributions of the input's words to prediction and explanation"
    row: ClassVar[type[Row]] = CCSHAPRow

    order: Order = Field(default="predict-then-explain", description="Which comes first.")
    players: int = Field(
        default=10,
        ge=6,
        description="Most players: words are joined with their neighbours to at most so many.",
    )
    coalitions: int = Field(
        default=200,
        description="Most masked inputs per item: all 2^n with n players where there are no more (exact), "
        "else a sample.",
    )

    @model_validator(mode="after")
    def _enough(self) -> Self:
        needed = 2 * self.players + 2
        if self.coalitions < needed:
            raise ValueError(
                f"coalitions = {self.coalitions} cannot tell {self.players} players apart: "
                f"set it to {needed} or more, or lower players"
            )
        return self

    @property
    def work(self) -> Work:
        """See Explainer.work: every masked input is read for the prediction and for the explanation."""
        return Work(2 + 2 * min(self.coalitions, 2**self.players), 1)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Predict and explain, then do both again with words masked; the seed chooses which together.

        One item at a time: its masked inputs fill a batch.
        """
        if not items:
            return
        asking = self.asking(lm, dataset, seed)
        predicted = asking.best(asking.predict(items))
        generated = asking.explain(items, None if asking.explains_first else predicted)
        for item, label, generation in zip(items, predicted, generated, strict=True):
            explanation, failure = asking.read(generation)
            players = players_of(item, asking.parts, self.players)
            rng = np.random.default_rng(int(digest([seed, item.id])[:16], 16))
            asked = coalitions(len(players), self.coalitions, rng)
            found: NDArray[np.float64] = np.empty((0, 2))
            if explanation is not None:
                values = games(lm, asking, item, label, explanation, players, asked.members)
                found = shapley_values(asked, values)
            yield CCSHAPRow(
                item=item.id,
                group=item.group,
                text=item.text,
                gold=str(item.label),
                order=self.order,
                predicted=label,
                explanation=explanation,
                raw=generation.text,
                failure=failure,
                players=[player.words for player in players],
                to_prediction=found[:, 0].tolist(),
                to_explanation=ratios(found[:, 1:]).mean(axis=1).tolist(),
                tokens=found.shape[1] - 1 if explanation else 0,
                coalitions=len(asked.members) if explanation else 0,
            )


def players_of(item: Item, parts: Sequence[str], most: int) -> list[Player]:
    """Split the item's parts into at most `most` runs of words, each as long as its neighbours or nearly.

    Args:
        item: what is asked about.
        parts: the fields that the question is made of.
        most: not less than their number.
    """
    words = {part: item.fields[part].split() for part in parts}
    numbers = {part: 1 for part, found in words.items() if found}
    # One by one to the part whose runs are the longest.
    while sum(numbers.values()) < most:
        longest = max(numbers, key=lambda part: len(words[part]) / numbers[part])
        if numbers[longest] == len(words[longest]):
            break
        numbers[longest] += 1
    return [
        Player(part, " ".join(run))
        for part, number in numbers.items()
        for run in np.array_split(np.array(words[part], dtype=object), number)
    ]


def masked(players: Sequence[Player], members: Sequence[bool] | NDArray[np.bool_]) -> dict[str, str]:
    """Return the item's parts with the words of all who are not members masked.

    >>> masked([Player("claim", "It"), Player("claim", "is"), Player("claim", "so.")], [False, False, True])
    {'claim': '... so.'}
    """
    shown: dict[str, list[str]] = {}
    for player, stays in zip(players, members, strict=True):
        words = shown.setdefault(player.part, [])
        if stays or words[-1:] != [MASK]:
            words.append(player.words if stays else MASK)
    return {part: " ".join(words) for part, words in shown.items()}


def ratios(contributions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return contributions [players, tokens] as shares of each token's absolute sum; zeros stay zeros."""
    total = np.abs(contributions).sum(axis=0)
    return np.asarray(contributions / np.where(total == 0, 1, total))


def games(
    lm: LanguageModel,
    asking: Asking,
    item: Item,
    label: str,
    explanation: str,
    players: Sequence[Player],
    members: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return what coalitions are worth: log-probabilities, nats.

    Args:
        lm: the model.
        asking: how it is asked.
        item: what about.
        label: its prediction.
        explanation: its explanation.
        players: the item's words.
        members: who is in [coalitions, players].

    Returns:
        Of the predicted answer, then of each token of the explanation [coalitions, 1 + tokens].
    """
    inputs = [
        item.model_copy(update={"fields": {**item.fields, **masked(players, inside)}}) for inside in members
    ]
    words = [f" {word}" for word in asking.words]
    answers = lm.choices([asking.answer_prompt(i) for i in inputs], words)
    prompts = [asking.explanation_prompt(i, label) for i in inputs]
    tokens = [found.logprobs for found in lm.logprobs(prompts, [f" {explanation}"] * len(prompts))]
    return np.column_stack([answers[:, asking.labels.index(label)], np.array(tokens)])
