"""Explanations in words: what is asked, in which order, how it is read, what counts as a failure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fakes import FakeLanguageModel, query

from explainers import prompts
from explainers.asking import parse_explanation
from explainers.natural_language import ExplanationRow, NaturalLanguage
from quantxai.datasets import Dataset, load_dataset
from quantxai.errors import DataError
from quantxai.lm import Generation
from quantxai.records import Item

pytestmark = pytest.mark.bare

FIRST, LAST = "explain-then-predict", "predict-then-explain"
ANSWERS = {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"}


def pair(name: str, label: str) -> Item:
    fields = {"premise": f"p {name}", "hypothesis": f"h {name}", "explanation": f"because {name}"}
    return Item(
        id=name, text=f"Premise: p {name}\nHypothesis: h {name}", label=label, group=name, fields=fields
    )


def tiny(demonstrations: int = 2) -> Dataset:
    """One item a label, and so many demonstrations."""
    shown = [pair(f"d{k}-{label}", label) for k in range(demonstrations) for label in ANSWERS]
    return Dataset(
        name="tiny",
        task="inference",
        labels=tuple(ANSWERS),
        items=tuple(pair(f"i-{label}", label) for label in ANSWERS),
        demonstrations=tuple(shown),
        source="test",
        licence="none",
    )


def asked(item: Item) -> str:
    return prompts.fill(prompts.read("questions")["inference"]["question"], item.fields)


def explain(lm: FakeLanguageModel, dataset: Dataset, **options: Any) -> list[ExplanationRow]:
    rows = list(NaturalLanguage(**options).rows(lm, dataset, dataset.items, seed=0))
    assert all(isinstance(row, ExplanationRow) for row in rows)
    return rows  # type: ignore[return-value]


def replies(prompt: str) -> str:
    """Explain, and answer as the item's gold label has it."""
    last = query(prompt)
    if last.endswith("So the answer is") or last.endswith("Answer:"):
        return next(f" {word}.\n" for label, word in ANSWERS.items() if f"-{label}" in last)
    return " A reason. So the answer is Yes.\nMore"


def test_explain_then_predict_scores_the_answer_after_the_models_own_explanation() -> None:
    lm, dataset = FakeLanguageModel(reply=replies), tiny()
    rows = explain(lm, dataset, shots=0)
    items = dataset.items
    thoughts = [f"{asked(i)} Let's think step by step." for i in items]
    answers = [f"{asked(i)} Let's think step by step. A reason.\nSo the answer is" for i in items]
    assert lm.asked("generate") == [*thoughts, *answers]
    assert lm.asked("choices")[-3:] == answers
    assert [r.explanation for r in rows] == ["A reason."] * 3
    assert [r.said for r in rows] == list(ANSWERS), "what is said is read, case and full stop aside"
    assert [r.reference for r in rows] == [f"because i-{label}" for label in ANSWERS]


def test_predict_then_explain_explains_the_label_that_was_predicted() -> None:
    lm, dataset = FakeLanguageModel(reply=replies), tiny()
    rows = explain(lm, dataset, shots=0, order=LAST)
    assert lm.asked("choices")[-3:] == [f"{asked(i)} Answer:" for i in dataset.items]
    assert lm.asked("generate")[:3] == [
        f"{asked(i)} Answer: {ANSWERS[r.predicted]}\nExplanation:"
        for i, r in zip(dataset.items, rows, strict=True)
    ]


@pytest.mark.parametrize(("order", "form"), [
    (FIRST, "{asked} Let's think step by step. because {name}\nSo the answer is {word}."),
    (LAST, "{asked} Answer: {word}\nExplanation: because {name}"),
])  # fmt: skip
def test_demonstrations_show_gold_explanations_one_label_after_another(order: str, form: str) -> None:
    lm, dataset = FakeLanguageModel(), tiny(3)
    explain(lm, dataset, shots=4, order=order)
    blocks = [p.split("\n\n") for p in lm.asked("generate")]
    assert {len(b) for b in blocks} == {5}
    assert len({tuple(b[:-1]) for b in blocks}) == 1, "the same for every item"
    shown = {
        form.format(asked=asked(d), name=d.id, word=ANSWERS[str(d.label)]): str(d.label)
        for d in dataset.demonstrations
    }
    labels = [shown[block] for block in blocks[0][:-1]]
    assert sorted(labels[:3]) == sorted(ANSWERS)
    assert labels[3] == labels[0]


def test_the_seed_chooses_the_demonstrations() -> None:
    dataset = load_dataset("inference")

    def shown(seed: int) -> str:
        lm = FakeLanguageModel()
        list(NaturalLanguage().rows(lm, dataset, dataset.items[:1], seed=seed))
        return lm.asked("generate")[0]

    assert shown(1) == shown(1)
    assert len({shown(seed) for seed in range(5)}) == 5


def test_predictions_are_calibrated_on_demonstrations_that_are_not_shown() -> None:
    bias = {" Yes": -1.0, " Maybe": -3.0, " No": -6.0}

    def choose(prompt: str, choice: str) -> float:
        return bias[choice] + (1.0 if "i-neutral" in query(prompt) and choice == " Maybe" else 0.0)

    rows = explain(FakeLanguageModel(choose=choose), tiny(), shots=3)
    np.testing.assert_allclose(rows[0].scores, [-math.log(3)] * 3, atol=1e-12)
    total = math.log(2 + math.e)
    np.testing.assert_allclose(rows[1].scores, [-total, 1 - total, -total], atol=1e-12)
    assert rows[1].predicted == "neutral"


@pytest.mark.parametrize(
    ("name", "said", "label"),
    [
        ("inference", " yes, because", "entailment"),
        ("inference", ' "Maybe."', "neutral"),
        ("inference", " Contradiction", "contradiction"),
        ("inference", " Nothing", None),
        ("claims", " unknown.", "not enough information"),
        ("questions", " B: a lamp", "B"),
        ("questions", " (C)", "C"),
        ("questions", " a lamp", None),
        ("questions", " A lamp is bright.", None),
        ("questions", " E", "E"),
    ],
)
def test_what_is_said_is_parsed(name: str, said: str, label: str | None) -> None:
    dataset = load_dataset(name)
    lm = FakeLanguageModel(reply=lambda prompt: said)
    (row,) = NaturalLanguage(order=LAST).rows(lm, dataset, dataset.items[:1], seed=0)
    assert isinstance(row, ExplanationRow)
    assert row.said == label


def test_too_few_demonstrations_are_named() -> None:
    with pytest.raises(
        DataError, match=r"label '\w+' has 2 demonstrations; 6 shots need 2 of it .* Lower the option"
    ):
        explain(FakeLanguageModel(), tiny(), shots=6)


@pytest.mark.parametrize(
    ("raw", "stopped", "expected"),
    [
        (" Because  it is.", "stop", ("Because it is.", None)),
        (" Two lines\nof text. ", "end", ("Two lines of text.", None)),
        ("One whole. And half of", "length", ("One whole.", None)),
        ('He said "no." And', "length", ('He said "no."', None)),
        ("Not one whole sentence about 3.5 of", "length", (None, "unparsed")),
        ("Premise: A man", "stop", (None, "unparsed")),
        (" . \n", "stop", (None, "empty")),
        ("\n\nHe sleeps.\n\nDogs fly.", "length", ("He sleeps.", None)),
        ("He sleeps.\nClaim: Dogs fly.", "end", ("He sleeps.", None)),
        ("The claim: it is true.", "end", ("The claim: it is true.", None)),
    ],
)
def test_explanations_are_read(raw: str, stopped: Any, expected: tuple[str | None, str | None]) -> None:
    assert parse_explanation(Generation(raw, 5, stopped)) == expected


def test_a_failed_explanation_is_counted_and_still_has_a_prediction() -> None:
    rows = explain(FakeLanguageModel(reply=lambda prompt: "\n"), tiny())
    assert [(r.explanation, r.failure, r.said) for r in rows] == [(None, "empty", None)] * 3
    assert {r.predicted for r in rows} <= set(ANSWERS)


def test_an_explanation_copied_from_a_demonstration_is_a_failure() -> None:
    said = FakeLanguageModel(
        reply=lambda prompt: f" {prompt.split('step by step. ')[1].partition(chr(10))[0]}\n"
    )
    assert [(r.explanation, r.failure) for r in explain(said, tiny())] == [(None, "copied")] * 3


@pytest.mark.parametrize("name", ["inference", "claims", "questions"])
def test_a_repeated_question_is_no_explanation(name: str) -> None:
    dataset = load_dataset(name)
    item = dataset.items[0]
    question = prompts.fill(prompts.read("questions")[dataset.task]["question"], item.fields)
    lm = FakeLanguageModel(reply=lambda prompt: " " + question.replace("\n", " ") + "\n")
    (row,) = NaturalLanguage().rows(lm, dataset, [item], seed=0)
    assert isinstance(row, ExplanationRow)
    assert (row.explanation, row.failure) == (None, "unparsed")


def test_samples_differ_by_seed_and_come_with_predictions() -> None:
    (row, *_) = explain(FakeLanguageModel(), tiny(), samples=4)
    assert len(set(row.samples)) == 4
    assert len(row.sample_labels) == 4
    again = explain(FakeLanguageModel(), tiny(), samples=4)
    assert again[0] == row
    assert explain(FakeLanguageModel(), tiny(), samples=2)[0].samples == row.samples[:2]


@pytest.mark.parametrize("name", ["inference", "claims", "questions"])
@pytest.mark.parametrize("order", [FIRST, LAST])
def test_every_task_can_be_asked(name: str, order: str) -> None:
    dataset = load_dataset(name)
    lm = FakeLanguageModel()
    rows = list(NaturalLanguage(order=order).rows(lm, dataset, dataset.items[:4], seed=0))
    assert len(rows) == 4
    for prompt, item in zip(lm.asked("generate")[:4], dataset.items, strict=False):
        assert "{" not in query(prompt)
        assert all(item.fields[f] in query(prompt) for f in item.fields if f != "explanation")


def test_the_digest_covers_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {order: NaturalLanguage(order=order).digest() for order in (FIRST, LAST)}
    read = prompts.read
    for name, orders in (("questions", (FIRST, LAST)), ("explain_then_predict", (FIRST,))):
        monkeypatch.setattr(
            prompts, "read", lambda n, name=name: {**read(n), "version": 9} if n == name else read(n)
        )
        for order in (FIRST, LAST):
            assert (NaturalLanguage(order=order).digest() != plain[order]) == (order in orders)
