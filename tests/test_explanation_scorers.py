"""Scorers of explanations in words, against numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext, FakeLanguageModel, query

from explainers.natural_language import ExplanationRow
from explainers.scorers.bartscore import BartScore
from explainers.scorers.bertscore import BertScore, greedy_matching
from explainers.scorers.prediction import Prediction
from explainers.scorers.rouge import Rouge, rouge_l, rouge_n, words
from explainers.scorers.self_consistency import SelfConsistency, majority
from explainers.scorers.simulatability import Simulatability, leakage_adjusted
from explainers.scorers.tigerscore import TigerScore, penalties
from quantxai.config import parse_config
from quantxai.datasets import Dataset, load_dataset
from quantxai.errors import DataError
from quantxai.methods import Scorer
from quantxai.records import Item

pytestmark = pytest.mark.bare

LABELS = ("entailment", "neutral", "contradiction")


def row(item: str = "a", **changes: Any) -> ExplanationRow:
    values: dict[str, Any] = {
        "text": "Premise: P\nHypothesis: H",
        "gold": "entailment",
        "reference": "the cat sat on the mat",
        "order": "explain-then-predict",
        "labels": list(LABELS),
        "scores": [-1.0, -1.1, -1.2],
        "predicted": "entailment",
        "said": "entailment",
        "explanation": "the cat was on a mat",
        "raw": " the cat was on a mat",
        "failure": None,
        "stopped": "stop",
        "tokens": 7,
    }
    return ExplanationRow(item=item, group="g", **{**values, **changes})


FAILED = {"explanation": None, "failure": "unparsed", "said": None}


def pairs(*names: str) -> Dataset:
    """Inference items of these names, with the built-in demonstrations."""
    items = tuple(
        Item(
            id=name,
            text=f"Premise: {name}-premise\nHypothesis: {name}-hypothesis",
            label="neutral",
            group=name,
            fields={"premise": f"{name}-premise", "hypothesis": f"{name}-hypothesis"},
        )
        for name in names
    )
    return load_dataset("inference").model_copy(update={"items": items})


def scored(
    scorer: Scorer,
    rows: Sequence[ExplanationRow],
    context: FakeContext | None = None,
    dataset: Dataset | None = None,
) -> dict[tuple[str, str], float | None]:
    found = scorer.scores(rows, dataset or pairs(*[r.item for r in rows]), context or FakeContext())
    return {(s.item, s.metric): s.value for s in found}


def of_one(scorer: Scorer, one: ExplanationRow, context: FakeContext | None = None) -> dict[str, Any]:
    return {metric: value for (_, metric), value in scored(scorer, [one], context).items()}


# --- prediction


def test_a_prediction_is_right_whether_scored_or_said() -> None:
    assert of_one(Prediction(), row()) == {
        "accuracy": 1.0,
        "said_accuracy": 1.0,
        "said_agrees": 1.0,
        "failure": 0.0,
        "length": 7.0,
    }


def test_saying_another_label_than_the_most_likely_one_is_disagreement() -> None:
    found = of_one(Prediction(), row(predicted="neutral", said="entailment"))
    assert (found["accuracy"], found["said_accuracy"], found["said_agrees"]) == (0.0, 1.0, 0.0)


def test_saying_no_label_counts_as_wrong_and_as_disagreeing() -> None:
    found = of_one(Prediction(), row(said=None))
    assert (found["accuracy"], found["said_accuracy"], found["said_agrees"]) == (1.0, 0.0, 0.0)


def test_a_failed_explanation_is_counted_and_keeps_its_prediction() -> None:
    found = of_one(Prediction(), row(**FAILED))
    assert (found["accuracy"], found["failure"], found["length"]) == (1.0, 1.0, None)


@pytest.mark.parametrize("scorer", [Rouge(), BertScore(), BartScore()], ids=lambda s: s.method)
@pytest.mark.parametrize("missing", [FAILED, {"reference": None}], ids=["failed", "no gold explanation"])
def test_nothing_is_compared_where_one_explanation_is_missing(
    scorer: Scorer, missing: dict[str, Any]
) -> None:
    values = scored(scorer, [row("a", **missing), row("b")])
    assert all((value is None) == (item == "a") for (item, _), value in values.items())


# --- ROUGE


def test_rouge_of_a_pair_worked_out_by_hand() -> None:
    # the cat [was] on [a] mat / the cat [sat] on [the] mat: 4 of 6 words, "the cat" of 5 pairs, 4 in order.
    found = of_one(Rouge(), row())
    assert found == {"rouge_1": pytest.approx(2 / 3), "rouge_2": pytest.approx(1 / 5), "rouge_l": 2 / 3}


def test_rouge_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # P = 2/2, R = 2/5.
    assert rouge_n(["cats", "eat"], ["the", "cats", "eat", "fish", "now"], 1) == pytest.approx(4 / 7)
    assert rouge_l(["cats", "eat"], ["the", "cats", "eat", "fish", "now"]) == pytest.approx(4 / 7)


def test_a_repeated_word_counts_no_more_often_than_in_the_other_text() -> None:
    """Packages that compare sets of n-grams give 1 / 1 of the words here."""
    assert rouge_n(["the", "the", "the"], ["the", "cat"], 1) == pytest.approx(2 / 5)


def test_rouge_l_needs_the_order_and_rouge_1_does_not() -> None:
    assert rouge_n(["b", "a"], ["a", "b"], 1) == 1.0
    assert rouge_n(["b", "a"], ["a", "b"], 2) == 0.0
    assert rouge_l(["b", "a"], ["a", "b"]) == 0.5


def test_rouge_neither_stems_nor_splits_words_at_accents() -> None:
    assert words("Running RUNS, naïve_6") == ["running", "runs", "naïve", "6"]
    assert rouge_n(words("running"), words("runs"), 1) == 0.0


def test_texts_without_common_words_or_too_short_for_a_pair_score_0() -> None:
    assert rouge_n(["a"], ["a"], 2) == 0.0
    assert rouge_n([], [], 1) == rouge_l([], ["a"]) == rouge_l(["b"], ["a"]) == 0.0


# --- BERTScore


def test_greedy_matching_of_embeddings_worked_out_by_hand() -> None:
    found = np.array([[1, 0], [0, 1]], np.float32)
    gold = np.array([[1, 0], [0.6, 0.8], [0, -1]], np.float32)
    # Cosines [[1, .6, 0], [0, .8, -1]]: rows' best 1 and .8, columns' best 1, .8 and 0.
    assert greedy_matching(found, gold) == pytest.approx((0.9, 0.6, 0.72), abs=1e-6)
    assert greedy_matching(gold, found) == pytest.approx((0.6, 0.9, 0.72), abs=1e-6)


def test_opposite_tokens_have_no_harmonic_mean() -> None:
    one = np.array([[1, 0]], np.float32)
    assert greedy_matching(one, -one) == (-1.0, -1.0, 0.0)


def test_a_text_without_tokens_matches_nothing() -> None:
    assert greedy_matching(np.empty((0, 2), np.float32), np.array([[1, 0]], np.float32)) is None


def test_the_same_explanation_matches_fully_and_word_order_is_the_encoders_matter() -> None:
    same = of_one(BertScore(), row(explanation="the cat sat on the mat"))
    assert same == pytest.approx(
        {
            "bertscore_precision": 1,
            "bertscore_recall": 1,
            "bertscore_f1": 1,
            "sentence_cosine": 1,
        },
        abs=1e-6,
    )
    part = of_one(BertScore(), row(explanation="the cat sat"))
    assert part["bertscore_precision"] == pytest.approx(1)
    assert part["bertscore_recall"] < 0.95


# --- BARTScore

SLEEPS = {"explanation": "It rests.", "reference": "a cat sleeps"}


def by_length(prompt: str, token: str) -> float:
    """A model that likes short words."""
    return -float(len(token.strip()))


def test_bartscore_is_the_mean_over_the_target_tokens_alone() -> None:
    lm = FakeLanguageModel(score=by_length)
    context = FakeContext(lm)
    # Words of 1, 3 and 6 letters.
    assert of_one(BartScore(), row(**SLEEPS), context) == {"bartscore": pytest.approx(-10 / 3)}
    assert lm.asked("logprobs") == ["It rests.\nIn other words: a cat sleeps"]
    assert context.notes == {"model": "parent", "direction": "reference_given_explanation"}


def test_bartscore_in_the_other_direction_scores_the_explanation() -> None:
    lm = FakeLanguageModel(score=by_length)
    context = FakeContext(lm)
    reverse = BartScore(direction="explanation_given_reference")
    # "It", "rests" and "."
    assert of_one(reverse, row(**SLEEPS), context) == {"bartscore": pytest.approx(-8 / 3)}
    assert lm.asked("logprobs") == ["a cat sleeps\nIn other words: It rests."]
    assert context.notes["direction"] == "explanation_given_reference"
    assert reverse.digest() != BartScore().digest()


def test_bartscore_asks_a_causal_model_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    scorer = BartScore(model=str(tmp_path / "other"))
    parent = FakeLanguageModel()
    context = FakeContext(parent, other=FakeLanguageModel(score=lambda prompt, token: -2.5))
    assert of_one(scorer, row(**SLEEPS), context) == {"bartscore": -2.5}
    assert scorer.models == (str(tmp_path / "other"),)
    assert BartScore().models == ()
    assert not parent.calls


# --- TIGERScore


def judged(*points: str, count: str | None = None, total: str = "9") -> str:
    errors = [
        f"Error location {n}: the cat\nError aspect {n}: Logic\nExplanation {n}: It is no cat.\nSeverity {n}: Major\n"
        f"Score reduction {n}: {point}"
        for n, point in enumerate(points, 1)
    ]
    count = count or str(len(points))
    head = f"The model-generated output contains {count} errors, with a total score reduction of {total}."
    return "\n".join([head, *errors])


@pytest.mark.parametrize(
    ("points", "score"),
    [(["0.5"], -0.5), (["2.0", "0.5"], -2.5), (["4"], -4.0), (["-0.5", "- 2.5"], -3.0), ([], 0.0)],
)
def test_tigerscore_adds_up_the_penalties_with_their_fractions(points: list[str], score: float) -> None:
    """The published code reads the total, up to its decimal point: 0 for 0.5, 2 for 2.5."""
    total = str(-score)
    context = FakeContext(tiger=FakeLanguageModel(reply=lambda p: "\n" + judged(*points, total=total)))
    found = of_one(TigerScore(model="tiger"), row(), context)
    assert found == {"tigerscore": score, "errors": float(len(points)), "unreadable": 0.0}
    assert str(found["tigerscore"]) != "-0.0"


def test_tigerscore_does_not_believe_the_total_the_judge_wrote() -> None:
    assert penalties(judged("1.5", "1.0", total="4.5")) == [1.5, 1.0]


@pytest.mark.parametrize(
    "output",
    [
        "",
        "The explanation is fine.",
        judged("1.0", count="2"),
        judged("1.0", "2.0", count="1"),
        judged("1.0", "2.0").rpartition("Score")[0],
        judged("many"),
        judged("1.0").replace("Severity 1", "Severity"),
    ],
    ids=["empty", "prose", "one missing", "one too many", "cut off", "no number", "no severity"],
)
def test_a_judgement_that_cannot_be_read_is_counted_and_has_no_score(output: str) -> None:
    assert penalties(output) is None
    context = FakeContext(tiger=FakeLanguageModel(reply=lambda p: output))
    found = of_one(TigerScore(model="tiger"), row(), context)
    assert found == {"tigerscore": None, "errors": None, "unreadable": 1.0}


def test_penalties_may_stand_in_the_next_line_as_the_models_write_them() -> None:
    assert penalties(judged("\n0.5")) == [0.5]
    assert penalties("The model-generated output contains no errors.") == []


def test_tigerscore_is_asked_in_the_form_its_models_were_trained_on() -> None:
    tiger = FakeLanguageModel(reply=lambda p: judged())
    scored(TigerScore(model="tiger"), [row("a", predicted="contradiction")], FakeContext(tiger=tiger))
    (asked,) = tiger.asked("generate")
    assert asked.startswith(
        "You are evaluating errors in a model-generated output for a given instruction.\nInstruction: \n"
        'Answer the question with "No" and explain the answer.\n"a-premise" Does this mean that "a-hypothesis"?'
    )
    assert "\n\nModel-generated Output: \nthe cat was on a mat\n\nFor each error" in asked
    assert asked.endswith("\n\nYour evaluation output:")


def test_tigerscore_without_a_model_says_so_and_has_no_values() -> None:
    context = FakeContext()
    assert set(of_one(TigerScore(), row(), context).values()) == {None}
    assert "none given" in context.notes["model"]
    assert TigerScore().models == ()


def test_tigerscore_runs_only_where_a_configuration_names_it() -> None:
    by_default = {s.scorer for s in parse_config({}).scorers}
    assert "tigerscore" not in by_default
    assert {"prediction", "rouge", "bertscore", "bartscore", "simulatability"} <= by_default
    named = parse_config({"scorers": [{"scorer": "tigerscore", "model": "TIGER-Lab/TIGERScore-7B"}]})
    assert named.scorers[0].method().models == ("TIGER-Lab/TIGERScore-7B",)


def test_a_failed_explanation_is_not_judged() -> None:
    tiger = FakeLanguageModel()
    assert set(of_one(TigerScore(model="tiger"), row(**FAILED), FakeContext(tiger=tiger)).values()) == {None}
    assert not tiger.calls


# --- simulatability

# What the judge answers about each item from the item, from both, and from the explanation.
VIEWS = {
    "a": ("Maybe", "No", "No"),
    "b": ("Yes", "No", "Maybe"),
    "c": ("Yes", "Maybe", "Maybe"),
    "d": ("Yes", "Yes", "Yes"),
    "e": ("Maybe", "Yes", "Yes"),
    "f": ("Maybe", "", ""),
}
ANSWERED = {
    "a": "contradiction",
    "b": "contradiction",
    "c": "entailment",
    "d": "entailment",
    "e": "entailment",
}


def simulator(prompt: str, choice: str) -> float:
    """A judge with a liking for Yes that calibration has to take away."""
    asked, liking = query(prompt), 3.0 * (choice == " Yes")
    for name, (item, both, only) in VIEWS.items():
        seen, explained = f"{name}-premise" in asked, f"because {name}" in asked
        if seen or explained:
            answer = both if seen and explained else item if seen else only
            return liking + (choice == f" {answer}")
    return liking


def simulated() -> tuple[dict[tuple[str, str], float | None], FakeContext, FakeLanguageModel]:
    judge = FakeLanguageModel(choose=simulator)
    context = FakeContext(judge)
    rows = [
        row(name, predicted=answer, gold="neutral", explanation=f"because {name}")
        for name, answer in ANSWERED.items()
    ]
    return scored(Simulatability(), [*rows, row("f", **FAILED)], context), context, judge


def test_simulatability_worked_out_by_hand() -> None:
    values, _, _ = simulated()
    names = [metric.name for metric in Simulatability.metrics]
    table = {item: tuple(values[item, name] for name in names) for item in "abcdef"}
    assert table == {
        # with explanation, without, leaks, gain, gain of leaking, gain of others
        "a": (1.0, 0.0, 1.0, 1.0, 1.0, None),
        "b": (1.0, 0.0, 0.0, 1.0, None, 1.0),
        "c": (0.0, 1.0, 0.0, -1.0, None, -1.0),
        "d": (1.0, 1.0, 1.0, 0.0, 0.0, None),
        "e": (1.0, 0.0, 1.0, 1.0, 1.0, None),
        "f": (None, 0.0, None, None, None, None),
    }


def test_leakage_adjusted_simulatability_weighs_both_groups_the_same() -> None:
    # Leaking a, d, e: (1 + 0 + 1) / 3; others b, c: (1 - 1) / 2. The plain mean would be 2/5.
    _, context, _ = simulated()
    assert context.notes == {
        "judge": "parent",
        "leakage_adjusted_simulatability": pytest.approx(1 / 3),
        "leaking": 3,
        "nonleaking": 2,
    }


def test_leakage_adjusted_simulatability_has_no_value_where_a_group_is_empty() -> None:
    """The published code gives NaN."""
    assert leakage_adjusted([1.0, 0.0], [True, True]) is None
    assert leakage_adjusted([1.0], [False]) is None
    assert leakage_adjusted([1.0, -1.0], [True, False]) == 0.0


def test_the_models_answer_is_predicted_and_not_the_gold_one() -> None:
    """The published script takes the gold label unless told otherwise."""
    rows = [row("a", predicted="neutral", gold="contradiction", explanation="because a")]
    values = scored(Simulatability(), rows, FakeContext(FakeLanguageModel(choose=simulator)))
    # From the item "Maybe", from both "No".
    assert values["a", "simulated"] == 0.0
    assert values["a", "simulated_without_explanation"] == 1.0


def test_the_judge_sees_only_what_a_view_shows() -> None:
    _, _, judge = simulated()
    asked = [query(prompt) for prompt in judge.asked("choices")]
    about_a = [a for a in asked if "a-premise" in a or "because a" in a]
    seen = {("a-premise" in a, "a-hypothesis" in a, "because a" in a) for a in about_a}
    assert seen == {(True, True, True), (True, True, False), (False, False, True)}
    assert all(("Reason:" in a) == ("because a" in a) for a in about_a)


def test_the_answers_of_a_question_stay_where_the_question_is_hidden() -> None:
    data = load_dataset("questions")
    item, judge = data.items[0], FakeLanguageModel()
    one = row(item.id, labels=list(data.labels), predicted="B", gold="B", explanation="because it is so")
    scored(Simulatability(), [one], FakeContext(judge), data)
    asked = [query(prompt) for prompt in judge.asked("choices")]
    hidden = [a for a in asked if "because it is so" in a and item.fields["question"] not in a]
    assert len(hidden) == 1
    assert all(f"{letter}: {item.fields[letter]}" in hidden[0] for letter in "ABCDE")


def test_a_judge_that_is_named_takes_the_parents_place() -> None:
    other, parent = FakeLanguageModel(choose=simulator), FakeLanguageModel()
    context = FakeContext(parent, other=other)
    rows = [row("a", predicted="contradiction", explanation="because a")]
    assert scored(Simulatability(model="other"), rows, context)["a", "gain"] == 1.0
    assert not parent.calls
    assert Simulatability(model="other").models == ("other",)


def test_a_data_set_without_gold_explanations_is_refused() -> None:
    data = pairs("a")
    bare = tuple(
        d.model_copy(update={"fields": {k: v for k, v in d.fields.items() if k != "explanation"}})
        for d in data.demonstrations
    )
    with pytest.raises(DataError, match="have no explanations"):
        scored(Simulatability(), [row("a")], None, data.model_copy(update={"demonstrations": bare}))


# --- self-consistency

DRAWN = {
    "samples": ["aa", "ab", "", "b"],
    "sample_labels": ["entailment", "neutral", "entailment", "entailment"],
}


def test_self_consistency_worked_out_by_hand() -> None:
    found = of_one(SelfConsistency(), row(gold="entailment", predicted="neutral", **DRAWN))
    # Letters counted: cos(aa, ab) = cos(ab, b) = 1 / sqrt(2), cos(aa, b) = 0.
    assert found == {
        "agreement": 0.25,
        "majority_accuracy": 1.0,
        "sample_similarity": pytest.approx(2 / 3 / 2**0.5),
        "sample_failure": 0.25,
    }


def test_of_labels_that_tie_the_one_drawn_first_wins() -> None:
    assert majority(["neutral", "entailment", "entailment", "neutral", "contradiction"]) == "neutral"
    assert majority(["neutral", "entailment", "entailment"]) == "entailment"


def test_no_samples_give_no_values() -> None:
    assert set(of_one(SelfConsistency(), row()).values()) == {None}


def test_one_explanation_is_not_similar_to_itself() -> None:
    lone = row(samples=["aa", ""], sample_labels=["neutral", "neutral"])
    found = of_one(SelfConsistency(), lone)
    assert found["sample_similarity"] is None
    assert found["sample_failure"] == 0.5


def test_predictions_that_come_before_what_is_sampled_do_not_agree_with_anything() -> None:
    found = of_one(SelfConsistency(), row(order="predict-then-explain", **DRAWN))
    assert (found["agreement"], found["majority_accuracy"]) == (None, None)
    assert found["sample_similarity"] is not None
