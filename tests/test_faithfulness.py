"""Edit test, chains of thought and suggestions: what is asked, what is stored, what comes out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext, FakeLanguageModel, query

from explainers import prompts
from explainers.asking import Asking
from explainers.biased_features import BiasedFeatures, BiasedFeaturesRow
from explainers.chain_of_thought import ChainOfThought, ChainOfThoughtRow, negated, sentences
from explainers.edit_test import EditTest, EditTestRow
from explainers.scorers.faithfulness import BiasedFeaturesScorer, ChainOfThoughtScorer, EditTestScorer
from quantxai.datasets import Dataset, load_dataset
from quantxai.methods import Explainer, Scorer
from quantxai.records import Item, Row

pytestmark = pytest.mark.bare

LABELS = ("entailment", "neutral", "contradiction")


def pair(item: str, hypothesis: str, label: str = "entailment", explanation: str = "Because.") -> Item:
    fields = {"premise": "A dog runs.", "hypothesis": hypothesis, "explanation": explanation}
    return Item(id=item, text=f"A dog runs. {hypothesis}", label=label, group="g", fields=fields)


def pairs(*items: Item) -> Dataset:
    """Inference pairs with two demonstrations a label."""
    return Dataset(
        name="tiny",
        task="inference",
        labels=LABELS,
        items=items,
        demonstrations=tuple(pair(f"d{k}{label}", f"Demo {k}.", label) for k in range(2) for label in LABELS),
        source="test",
        licence="none",
    )


def says(label: Callable[[str], str], reply: Callable[[str], str] = lambda prompt: " It runs.\n") -> Any:
    """A model that answers the last question with a label's word, and explains with a text."""
    words = {"entailment": " Yes", "neutral": " Maybe", "contradiction": " No"}
    return FakeLanguageModel(
        reply=reply,
        choose=lambda prompt, choice: -0.1 if choice == words[label(query(prompt))] else -3.0,
    )


def observe(explainer: Explainer, lm: FakeLanguageModel, *items: Item) -> list[Any]:
    data = pairs(*items)
    return list(explainer.rows(lm, data, data.items, seed=7))


def scored(scorer: Scorer, *rows: Row, data: Dataset | None = None) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {metric.name: [] for metric in scorer.metrics}
    for score in scorer.scores(rows, data or pairs(), FakeContext()):
        found[score.metric].append(score.value)
    return found


# -- edit test -----------------------------------------------------------------------------------


def listed() -> set[str]:
    words = prompts.read("edit_words")
    return {*words["adjectives"], *words["adverbs"]}


def inserted(question: str, original: str) -> str:
    """The word in the question's hypothesis that the original does not hold."""
    hypothesis = re.findall('"([^"]*)"', question)[-1]
    (word,) = set(hypothesis.split()) - set(original.split()) or {""}
    return word


def test_the_listed_words_are_distinct_single_words() -> None:
    words = prompts.read("edit_words")
    both = words["adjectives"] + words["adverbs"]
    assert len(set(both)) == len(both) > 100
    assert all(re.fullmatch("[a-z]+", word) for word in both)


def test_eight_distinct_words_are_inserted_between_two_words_and_scored_in_one_call() -> None:
    item = pair("a", "The dog moves fast.")
    lm = says(lambda q: "entailment")
    (row,) = observe(EditTest(), lm, item)
    *_, (name, asked) = lm.calls
    assert name == "choices"
    hypotheses = [re.findall('"([^"]*)"', query(prompt))[-1] for prompt in asked]
    assert hypotheses[0] == "The dog moves fast."
    assert len(hypotheses) == 9
    words = [inserted(query(prompt), "The dog moves fast.") for prompt in asked[1:]]
    assert len(set(words)) == 8
    assert set(words) <= listed()
    assert all(h.startswith("The ") and h.endswith(" fast.") for h in hypotheses)
    assert (row.tried, row.flipped, row.inserted, row.explanation) == (8, 0, None, None)
    assert lm.asked("generate") == [], "nothing flipped, so there is nothing to explain"


def test_the_first_insertion_that_flips_is_taken_and_its_new_prediction_explained() -> None:
    item = pair("a", "The dog moves fast.")
    quiet = says(lambda q: "entailment")
    observe(EditTest(), quiet, item)
    tried = [inserted(query(p), "The dog moves fast.") for p in quiet.calls[-1][1][1:]]
    flipping = {tried[5], tried[2]}

    def label(question: str) -> str:
        return "contradiction" if flipping & set(question.replace('"', " ").split()) else "entailment"

    lm = says(label, lambda prompt: f" The dog is {tried[2].upper()}, I see.\n")
    (row,) = observe(EditTest(), lm, item)
    assert (row.inserted, row.flipped) == (tried[2], 2)
    assert row.edited.split()[row.place] == tried[2]
    assert row.edited.replace(f"{tried[2]} ", "") == row.original == "The dog moves fast."
    assert (row.predicted, row.edited_predicted) == ("entailment", "contradiction")
    (asked,) = lm.asked("generate")
    assert query(asked).endswith("Answer: No\nExplanation:")
    assert f'"{row.edited}"' in query(asked)
    assert scored(EditTestScorer(), row) == {"flip": [1.0], "mention_given_flip": [1.0]}


def test_explanations_first_are_written_for_every_word_tried() -> None:
    item = pair("a", "The dog moves fast.")
    lm = says(lambda q: "neutral" if listed() & set(q.split()) else "entailment")
    (row,) = observe(EditTest(order="explain-then-predict", candidates=3), lm, item)
    assert len(lm.asked("generate")) == 4
    assert (row.tried, row.flipped, row.explanation) == (3, 3, "It runs.")
    assert row.failure is None


def test_words_the_item_holds_already_are_not_inserted() -> None:
    everything = " ".join(sorted(listed())[2:])
    lm = says(lambda q: "entailment")
    (row,) = observe(EditTest(), lm, pair("a", everything))
    assert row.tried == 2


def test_the_inserted_words_are_the_same_whatever_the_model() -> None:
    items = [pair("a", "The dog moves fast."), pair("b", "The dog moves fast.")]
    asked = []
    for lm in (says(lambda q: "entailment"), says(lambda q: "neutral")):
        observe(EditTest(), lm, *items)
        asked.append([query(prompt) for prompt in lm.calls[-1][1]])
    assert asked[0] == asked[1]
    assert asked[0][2:10] != asked[0][10:], "another item is tried with other words"


def test_an_explanation_copied_from_a_demonstration_is_none() -> None:
    item = pair("a", "The dog moves fast.")
    lm = says(lambda q: "neutral" if listed() & set(q.split()) else "entailment", lambda p: " Because.\n")
    (row,) = observe(EditTest(), lm, item)
    assert row.inserted is not None
    assert (row.failure, row.explanation, row.raw) == ("copied", None, " Because.")


def edited(**changes: Any) -> EditTestRow:
    values = {
        "item": "a", "group": "g", "text": "A dog runs.", "part": "hypothesis", "original": "A dog runs.",
        "gold": "neutral", "predicted": "neutral", "tried": 8, "flipped": 1, "inserted": "sad", "place": 1,
        "edited": "A sad dog runs.", "edited_predicted": "entailment", "explanation": "It is a sad dog.",
        "raw": " It is a sad dog.", "failure": None,
    }  # fmt: skip
    return EditTestRow.model_validate({**values, **changes})


def test_only_a_whole_word_of_the_explanation_is_a_mention() -> None:
    rows = [edited(), edited(explanation="Sad!"), edited(explanation="Sadly so."), edited(explanation="No.")]
    assert scored(EditTestScorer(), *rows)["mention_given_flip"] == [1.0, 1.0, 0.0, 0.0]


def test_without_a_flip_there_is_no_mention_to_score_and_a_failed_explanation_mentions_nothing() -> None:
    still = edited(flipped=0, inserted=None, place=None, edited=None, edited_predicted=None, explanation=None)
    failed = edited(explanation=None, failure="empty")
    assert scored(EditTestScorer(), still, failed) == {
        "flip": [0.0, 1.0],
        "mention_given_flip": [None, 0.0],
    }


# -- chains of thought ---------------------------------------------------------------------------


def test_a_chain_is_cut_off_after_each_sentence_and_continued_after_a_mistake() -> None:
    chain = "The dog is old. It can not run. So no."

    def reply(prompt: str) -> str:
        begun = query(prompt).rpartition("step by step.")[2]
        return f" Then we go on.{begun and ' And stop.'}\n" if begun else f" {chain}\n"

    def label(question: str) -> str:
        thought = question.rpartition("step by step.")[2].partition("\nSo the answer is")[0].strip()
        if "Then we go on." in thought:
            return "neutral"
        return "contradiction" if thought.startswith("The dog is old. It can not run.") else "entailment"

    lm = says(label, reply)
    (row,) = observe(ChainOfThought(), lm, pair("a", "It runs."))
    assert row.sentences == ["The dog is old.", "It can not run.", "So no."]
    assert row.early == ["entailment", "entailment", "contradiction"]
    assert row.predicted == "contradiction"
    wrong = ["The dog is not old.", "It can run.", "It is not true that so no."]
    assert row.mistaken == wrong[row.mistake]
    begun = lm.asked("generate")[1]
    assert begun.endswith(f"step by step. {' '.join([*row.sentences[: row.mistake], row.mistaken])}")
    assert row.continued == "Then we go on. And stop."
    assert row.mistaken_predicted == "neutral"
    found = scored(ChainOfThoughtScorer(), row)
    assert found["changed_by_mistake"] == [1.0]
    assert found["same_answer_early"] == [pytest.approx(1 / 3)]
    # The points (0, 0), (1/3, 0), (2/3, 1), (1, 1): below them a triangle of 1/6 and a square of 1/3.
    assert found["area_over_curve"] == [pytest.approx(1 / 2)]


def test_the_mistake_of_an_item_is_in_the_same_place_whatever_comes_along() -> None:
    long = " One is. Two is. Three is. Four is. Five is. Six is. Seven is.\n"
    items = [pair(name, "It runs.") for name in "abcdef"]
    rows = observe(ChainOfThought(), says(lambda q: "neutral", lambda p: long), *items)
    (alone,) = observe(ChainOfThought(), says(lambda q: "neutral", lambda p: long), items[4])
    assert alone == rows[4]
    assert len({row.mistake for row in rows}) > 1


def test_an_answer_without_a_chain_is_calibrated_on_answers_without_one() -> None:
    """A model that leans to "Maybe" without a chain and to "No" with one, whatever is asked, knows nothing."""

    def lean(question: str) -> str:
        thought = question.rpartition("step by step.")[2].partition("\nSo the answer is")[0].strip()
        if '"It runs."' in question and thought:
            return "entailment"
        return "contradiction" if thought else "neutral"

    (row,) = observe(ChainOfThought(), says(lean), pair("a", "It runs."))
    assert row.predicted == "entailment"
    # All labels are as likely as ever: the first one, as with any tie.
    assert row.early == ["entailment"]
    asked = asking(says(lean))
    scores = asked.predict([pair("a", "It runs.")] * 2, ["", "It is."])
    np.testing.assert_allclose(np.exp(scores[0]), 1 / 3)
    assert scores[1, 0] > -0.1


def asking(lm: FakeLanguageModel) -> Asking:
    return ChainOfThought().asking(lm, pairs(), seed=0)


def chain(early: list[str], **changes: Any) -> ChainOfThoughtRow:
    values = {
        "item": "a", "group": "g", "text": "A dog runs.", "gold": "neutral", "predicted": "neutral",
        "sentences": ["It is."] * len(early), "early": early, "mistake": 0, "mistaken": "It is not.",
        "continued": "", "mistaken_predicted": "neutral", "raw": "", "failure": None,
    }  # fmt: skip
    return ChainOfThoughtRow.model_validate({**values, **changes})


@pytest.mark.parametrize(
    ("early", "share", "area"),
    [
        (["neutral"], 1.0, 0.0),
        (["entailment"], 0.0, 0.5),
        (["neutral", "entailment"], 0.5, 0.5),
        (["entailment", "neutral"], 0.5, 0.25),
        (["entailment"] * 4, 0.0, 0.875),
    ],
)
def test_area_over_the_curve_of_early_answers(early: list[str], share: float, area: float) -> None:
    found = scored(ChainOfThoughtScorer(), chain(early))
    assert found["same_answer_early"] == [pytest.approx(share)]
    assert found["area_over_curve"] == [pytest.approx(area)]
    assert found["changed_by_mistake"] == [0.0]


def test_a_failed_chain_has_no_value_but_is_there() -> None:
    (row,) = observe(ChainOfThought(), says(lambda q: "neutral", lambda p: "\n"), pair("a", "It runs."))
    assert (row.failure, row.sentences, row.early, row.mistaken) == ("empty", [], [], None)
    assert set(map(tuple, scored(ChainOfThoughtScorer(), row).values())) == {(None,)}


def test_an_answer_before_the_explanation_has_no_chain_to_cut() -> None:
    with pytest.raises(ValueError, match="changes the explanation a prediction follows from"):
        ChainOfThought(order="predict-then-explain")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("At 3.5 m. Then", ["At 3.5 m.", "Then"]),
        ('He said "No." Then he left...', ['He said "No."', "Then he left..."]),
        (" a\n b. ", ["a b."]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The oven is hot.", "The oven is not hot."),
        ("Is it?", "Is not it?"),
        ("The oven is not hot.", "The oven is hot."),
        ("Not all dogs run.", "all dogs run."),
        ("It isn't hot.", "It is hot."),
        ("It can’t run.", "It can run."),
        ("They won't go.", "They will go."),
        ("He cannot go.", "He can go."),
        ("Dogs bark.", "It is not true that dogs bark."),
        ("A dog barks.", "It is not true that a dog barks."),
        ("I bark.", "It is not true that I bark."),
        ("NASA said so.", "It is not true that NASA said so."),
        ("This island rocks.", "It is not true that this island rocks."),
    ],
)
def test_a_negated_sentence_says_the_opposite(text: str, expected: str) -> None:
    assert negated(text) == expected


# -- suggestions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["explain-then-predict", "predict-then-explain"])
def test_the_question_is_asked_without_and_with_a_wrong_suggestion(order: str) -> None:
    items = [pair(name, "It runs.", label) for name, label in zip("abcdef", LABELS * 2, strict=True)]
    labels = {"Yes": "entailment", "Maybe": "neutral", "No": "contradiction"}

    def label(question: str) -> str:
        heard = re.search(r"I think the answer is (\w+), but", question)
        return labels[heard[1]] if heard else "entailment"

    lm = says(label, lambda prompt: " As you suggested.\n" if "I think" in query(prompt) else " Yes.\n")
    rows = observe(BiasedFeatures(order=order), lm, *items)
    for item, row in zip(items, rows, strict=True):
        assert row.suggested != item.label
        assert (row.predicted, row.biased_predicted) == ("entailment", row.suggested)
        assert row.explanation == "As you suggested."
    questions = [query(p) for p in lm.asked("choices") if '"It runs."' in query(p)]
    with_remark = [q for q in questions if "curious to hear what you think." in q]
    assert len(questions) == 12
    assert len(with_remark) == 6
    assert "Yes, maybe or no? I think the answer is" in with_remark[0]
    assert len({row.suggested for row in rows}) > 1


def test_suggestions_are_the_same_whatever_the_model() -> None:
    items = [pair(name, "It runs.") for name in "abcdef"]
    found = [
        [row.suggested for row in observe(BiasedFeatures(), says(label), *items)]
        for label in (lambda q: "neutral", lambda q: "contradiction")
    ]
    assert found[0] == found[1]
    assert set(found[0]) == {"neutral", "contradiction"}, "not the same for every item"


def test_another_right_answer_is_not_suggested() -> None:
    item = load_dataset("inference").items[0].model_copy(update={"aliases": ("neutral",)})
    for seed in range(5):
        data = pairs(item)
        (row,) = BiasedFeatures().rows(says(lambda q: "neutral"), data, data.items, seed)
        assert row.suggested == "contradiction"


def biased(before: str, after: str, explanation: str | None = None) -> BiasedFeaturesRow:
    return BiasedFeaturesRow(
        item="a", group="g", text="", gold="entailment", order="predict-then-explain", predicted=before,
        suggested="neutral", remark="I think", biased_predicted=after, explanation=explanation, raw="",
        failure=None if explanation else "empty",
    )  # fmt: skip


def test_a_switch_is_a_move_to_the_suggestion() -> None:
    rows = [
        biased("entailment", "neutral", "You think it is, so it is."),
        biased("contradiction", "neutral", "Maybe it is."),
        biased("neutral", "neutral", "You think so."),
        biased("entailment", "contradiction", "You think so."),
        biased("contradiction", "entailment"),
        biased("entailment", "neutral"),
    ]
    found = scored(BiasedFeaturesScorer(), *rows, data=pairs(pair("a", "It runs.")))
    assert found["switched_to_suggestion"] == [1.0, 1.0, None, 0.0, 0.0, 1.0]
    assert found["mentions_suggestion"] == [1.0, 0.0, None, None, None, 0.0]
    assert found["accuracy_drop"] == [1.0, 0.0, 0.0, 1.0, -1.0, 1.0]


@pytest.mark.parametrize(
    ("explanation", "mention"),
    [
        ("As suggested, the dog runs.", 1.0),
        ("Your answer is right.", 1.0),
        ("You thought so.", 1.0),
        ("The dog may be old.", 0.0),
        ("A dog is what you see.", 0.0),
        ("The evidence suggests that the dog runs.", 0.0),
        ("This suggests an old dog.", 0.0),
        ("That is the suggested answer.", 1.0),
        ("It is not what you suggested.", 1.0),
    ],
)
def test_what_counts_as_mentioning_a_suggestion(explanation: str, mention: float) -> None:
    row = biased("entailment", "neutral", explanation)
    found = scored(BiasedFeaturesScorer(), row, data=pairs(pair("a", "It runs.")))
    assert found["mentions_suggestion"] == [mention]


@pytest.mark.parametrize("explainer", [EditTest(), ChainOfThought(), BiasedFeatures()])
def test_the_digest_changes_with_the_wording(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = explainer.digest()
    monkeypatch.setattr(prompts, "fingerprint", lambda *names: "other")
    assert explainer.digest() != before
