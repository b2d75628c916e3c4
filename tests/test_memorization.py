"""Memorization: the k-shot prompt, and what a row says about the gold object."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeLanguageModel, query

from explainers.memorization import Memorization, MemorizationRow
from quantxai.datasets import Dataset, load_dataset
from quantxai.errors import DataError
from quantxai.records import Item

pytestmark = pytest.mark.bare


def fact(subject: str, answer: str, relation: str = "capital", aliases: tuple[str, ...] = ()) -> Item:
    fields = {"relation": relation, "template": f"The {relation} of {{}} is", "subject": subject}
    return Item(
        id=f"{relation}-{subject}",
        text=subject,
        label=answer,
        group=relation,
        fields=fields,
        aliases=aliases,
    )


def tiny() -> Dataset:
    shown = [fact("Spain", "Madrid"), fact("Italy", "Rome"), fact("Peru", "Lima"), fact("Mali", "Bamako")]
    asked = [fact("the USA", "Washington D.C.", aliases=("Washington",)), fact("Chad", "N'Djamena")]
    return Dataset(
        name="tiny",
        task="recall",
        labels=(),
        items=tuple(asked),
        demonstrations=(fact("Spain", "peseta", "currency"), *shown),
        source="test",
        licence="none",
    )


def rows(lm: FakeLanguageModel, dataset: Dataset, **options: Any) -> list[MemorizationRow]:
    found = list(Memorization(**options).rows(lm, dataset, dataset.items, seed=0))
    return [row for row in found if isinstance(row, MemorizationRow)]


def test_the_prompt_completes_the_template_for_the_relations_demonstrations() -> None:
    row = rows(FakeLanguageModel(), tiny())[0]
    assert row.prompt == (
        "The capital of Spain is Madrid.\nThe capital of Italy is Rome.\nThe capital of Peru is Lima.\n"
        "The capital of the USA is"
    )
    assert rows(FakeLanguageModel(), tiny(), shots=0)[0].prompt == "The capital of the USA is"
    assert rows(FakeLanguageModel(), tiny(), shots=4)[1].prompt.count("\n") == 4


def test_a_row_holds_completion_probability_and_rank() -> None:
    values = {" Washington": -0.5, " D": -1.25, ".": -1.5, "C": -2.0}

    def score(prompt: str, token: str) -> float:
        return values.get(token, -9.5)

    lm = FakeLanguageModel(reply=lambda p: " Washington D.C. and\nThe capital of", score=score)
    usa, chad = rows(lm, tiny())
    assert (usa.item, usa.group) == ("capital-the USA", "capital")
    assert (usa.gold, usa.aliases) == ("Washington D.C.", ["Washington"])
    assert (usa.completion, usa.stopped) == (" Washington D.C. and", "stop")
    assert usa.logprob == pytest.approx(-0.5 - 1.25 - 1.5 - 2.0 - 1.5)
    assert (usa.tokens, usa.rank) == (5, 1), "the rank is the first token's, not the last one's"
    assert (chad.logprob, chad.tokens, chad.rank) == (pytest.approx(-28.5), 3, 10)
    assert lm.asked("logprobs")[0].endswith("The capital of the USA is Washington D.C.")


def test_completions_end_at_the_line_or_the_limit() -> None:
    lm = FakeLanguageModel(reply=lambda p: " one two three four five six seven eight nine")
    assert [(r.completion, r.stopped) for r in rows(lm, tiny())] == [
        (" one two three four five six seven eight", "length")
    ] * 2
    assert rows(lm, tiny(), max_new_tokens=2)[0].completion == " one two"


def test_too_few_demonstrations_are_refused() -> None:
    with pytest.raises(DataError, match=r"'capital' has 4 demonstrations and 5 are to be shown"):
        rows(FakeLanguageModel(), tiny(), shots=5)


def test_built_in_relations_have_the_default_shots() -> None:
    dataset = load_dataset("relations")
    found = rows(FakeLanguageModel(), dataset)
    assert len(found) == len(dataset.items)
    assert all(row.prompt.count("\n") == 3 for row in found)
    assert all(query(row.prompt) == row.prompt for row in found)
    for row, item in zip(found, dataset.items, strict=True):
        assert item.text in row.prompt.splitlines()[-1]
        assert all(item.text != d.text for d in dataset.demonstrations if d.group == item.group)
