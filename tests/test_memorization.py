"""Memorization: the k-shot prompt, and what a row says about the gold object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeLanguageModel, query, validated

from explainers.memorization import Memorization, MemorizationRow
from quantxai.datasets import Dataset, load_dataset
from quantxai.errors import DataError, InputError
from quantxai.lm import Continuation
from quantxai.records import Item
from quantxai.tokenized import TokenizedModel

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


# -- facts that cannot be scored -----------------------------------------------------------------

SCORED = ("logprob", "tokens", "rank")


def asked_of(lm: Any, *items: Item) -> list[MemorizationRow]:
    return rows(lm, tiny().model_copy(update={"items": items}))


def nameless(subject: str = "Chad") -> Item:
    item = fact(subject, "N'Djamena")
    return item.model_copy(update={"fields": {**item.fields, "template": "The capital is"}})


class Strict(FakeLanguageModel):
    """Refuses to score nothing, as engines do."""

    def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
        if not all(text.strip() for text in continuations):
            raise InputError("a continuation to score has no tokens")
        return super().logprobs(prompts, continuations)


def test_what_cannot_be_asked_is_listed_and_the_others_are_as_without_it() -> None:
    bad = [fact("Peru", ""), fact("Mali", " "), fact("Oman", "x").model_copy(update={"label": None})]
    sound = [fact("Chad", "N'Djamena"), fact("Cuba", "Havana")]
    found = asked_of(Strict(), bad[0], sound[0], bad[1], nameless(), bad[2], sound[1])
    assert [row.problem for row in found] == [
        "the object is empty",
        None,
        "the object is empty",
        "the query does not name the subject",
        "the object is empty",
        None,
    ]
    for row in found:
        unscored = tuple(getattr(row, name) for name in SCORED) == (None, 0, None)
        assert unscored == (row.problem is not None)
        assert row.completion.startswith(" word"), "completed all the same"
        assert validated(row) == row
    assert [found[1], found[5]] == asked_of(Strict(), *sound)
    assert [row.item for row in found] == [
        *("capital-Peru", "capital-Chad", "capital-Mali", "capital-Chad", "capital-Oman", "capital-Cuba")
    ]
    assert all(row.problem for row in asked_of(Strict(), *bad)), "also where nothing else is asked"


def test_an_engine_that_finds_no_tokens_has_scored_nothing() -> None:
    class Blind(FakeLanguageModel):
        def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
            return [Continuation((), ()) for _ in prompts]

    (row,) = asked_of(Blind(), fact("Chad", "-"))
    assert (row.problem, row.logprob, row.rank) == ("the object has no tokens", None, None)


class Spelled(Strict, TokenizedModel):
    """A scripted model with a tokenizer that makes a token of each byte, and none of a soft hyphen."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = self

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        cut = text.replace(" ", "").replace("\N{SOFT HYPHEN}", "").replace("1", " 1").encode()
        return SimpleNamespace(input_ids=list(cut))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("N'Djamena", None),
        ("\N{SOFT HYPHEN}", "the object has no tokens"),
        ("1999", "the object's first token is white space"),
        ("\u00c9vora", "the object's first token is part of a character"),
    ],
)
def test_an_object_without_a_first_token_of_its_own_is_not_scored(label: str, problem: str | None) -> None:
    lm = Spelled()
    (row,) = asked_of(lm, fact("Chad", label))
    assert row.problem == problem
    assert (row.logprob is None) == (row.rank is None) == (problem is not None)
    assert bool(lm.asked("logprobs")) == (problem is None)


def test_the_trained_model_and_attribution_find_the_same_problems(tiny_path: Path) -> None:
    from explainers.neuron_attribution import NeuronAttribution, NeuronAttributionRow
    from quantxai.checkpoints import load_dense, load_tokenizer
    from quantxai.engine import TransformersModel

    lm = TransformersModel(load_dense(tiny_path, "float64", "cpu"), load_tokenizer(tiny_path))
    labels = ("Rome", "", "  ", "\U0001f600", "\u200b", "1999", "C++", "\u5317\u4eac")
    items = [*(fact(f"s{k}", label) for k, label in enumerate(labels)), nameless()]
    data = tiny().model_copy(update={"items": tuple(items)})
    remembered = list(Memorization().rows(lm, data, items, seed=0))
    attributed = NeuronAttribution(query_heads=0).rows(lm, data, items, seed=0)
    for one, other in zip(remembered, attributed, strict=True):
        assert isinstance(one, MemorizationRow)
        assert isinstance(other, NeuronAttributionRow)
        assert (one.item, one.problem, one.rank) == (other.item, other.problem, other.rank)
    assert len({row.problem for row in remembered if isinstance(row, MemorizationRow)}) >= 4
