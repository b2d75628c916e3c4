"""Label scoring and counterfactual edits: prompts, calibration, parsing, failures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
from fakes import FakeLanguageModel, query
from numpy.typing import NDArray

from explainers import labels, prompts
from explainers.counterfactual import (
    Counterfactual,
    CounterfactualRow,
    Failure,
    judged_text,
    parse_edit,
)
from quantxai.datasets import Dataset, inference_text, load_dataset, take
from quantxai.errors import DataError
from quantxai.lm import Generation
from quantxai.records import Item

pytestmark = pytest.mark.bare

PROTOCOLS = ("naive", "guided", "flare")
TOPICS = {"world": "war", "sports": "goal", "business": "shares", "technology": "robot"}


def tiny(**changes: Any) -> Dataset:
    """Topics told by one word; two demonstrations a topic, the first for the prompt."""
    demonstrations = [
        Item(id=f"d{k}-{label}", text=f"{word} demo {k}", label=label, group="d", aliases=())
        for k in range(2)
        for label, word in TOPICS.items()
    ]
    items = [
        Item(id=f"i-{label}", text=f"A {word} today.", label=label, group=f"g-{label}", aliases=())
        for label, word in TOPICS.items()
    ]
    values: dict[str, Any] = {
        "name": "tiny",
        "task": "topic",
        "labels": tuple(TOPICS),
        "items": tuple(items),
        "demonstrations": tuple(demonstrations),
        "source": "test",
        "licence": "none",
    }
    return Dataset.model_validate({**values, **changes})


def reads_topics(prompt: str, choice: str) -> float:
    """Prefer the topic whose word the text holds."""
    return -0.5 if TOPICS[choice.strip()] in query(prompt) else -3.0


def edits_to(text: str) -> Any:
    return lambda prompt: f"{text}</edit>\n\nText about world: more"


def label_logprobs(lm: FakeLanguageModel, dataset: Dataset, texts: list[str]) -> NDArray[np.float64]:
    return labels.Judge(lm, dataset).logprobs(lm, texts)


# -- label scoring -------------------------------------------------------------------------------


def test_scores_are_calibrated_on_the_demonstrations_that_are_not_shown() -> None:
    bias = {" world": -1.0, " sports": -2.0, " business": -4.0, " technology": -7.0}
    held_out = ("war demo 1", "goal demo 1", "shares demo 1", "robot demo 1")

    def choose(prompt: str, choice: str) -> float:
        # Among the held-out texts "goal" gets 0.8 nats more of " sports": its mean rises by 0.2.
        lift = 0.8 if choice == " sports" and "goal demo" in query(prompt) else 0.0
        lift += 2.0 if choice == " business" and "A shares" in query(prompt) else 0.0
        return bias[choice] + lift

    lm = FakeLanguageModel(choose=choose)
    scores = label_logprobs(lm, tiny(), ["A shares today."])
    raw = np.array([-1.0 + 1.0, -2.0 + 1.8, -4.0 + 2.0 + 4.0, -7.0 + 7.0])
    expected = raw - math.log(sum(math.exp(v) for v in raw))
    np.testing.assert_allclose(scores, [expected], atol=1e-12)
    assert [query(p) for p in lm.asked("choices")[:4]] == [f"News: {text}\nTopic:" for text in held_out]


def test_the_prompt_shows_one_demonstration_of_each_topic_and_ends_with_the_item() -> None:
    lm = FakeLanguageModel()
    label_logprobs(lm, tiny(), ["First text.", "Second text."])
    asked = lm.asked("choices")
    shown = "".join(f"News: {word} demo 0\nTopic: {label}\n\n" for label, word in TOPICS.items())
    assert asked[-2:] == [f"{shown}News: First text.\nTopic:", f"{shown}News: Second text.\nTopic:"]
    assert all(prompt.startswith(shown) for prompt in asked), "all prompts share one prefix"


def test_inference_pairs_are_asked_with_answer_words() -> None:
    dataset = load_dataset("inference")
    lm = FakeLanguageModel()
    scores = label_logprobs(lm, dataset, [inference_text("It rains.", "It is wet.")])
    assert scores.shape == (1, 3)
    assert query(lm.asked("choices")[-1]) == '"It rains." Does this mean that "It is wet."?'
    assert lm.asked("choices")[-1].count("? Yes\n") == 2
    assert lm.asked("choices")[-1].count("? Maybe\n") == 2
    assert lm.asked("choices")[-1].count("? No\n") == 2


def test_braces_in_texts_are_only_text() -> None:
    lm = FakeLanguageModel()
    label_logprobs(lm, tiny(), ["A {text} {0} {premise}"])
    assert query(lm.asked("choices")[-1]) == "News: A {text} {0} {premise}\nTopic:"
    label_logprobs(lm, load_dataset("inference"), [inference_text("{hypothesis}", "{x}")])
    assert query(lm.asked("choices")[-1]) == '"{hypothesis}" Does this mean that "{x}"?'


def test_a_text_that_occurs_twice_is_run_once() -> None:
    lm = FakeLanguageModel()
    judge = labels.Judge(lm, tiny())
    first = judge.logprobs(lm, ["A", "B", "A"])
    assert len(lm.asked("choices")) == 4 + 2
    np.testing.assert_array_equal(judge.logprobs(lm, ["B", "A"]), first[[1, 2]])
    np.testing.assert_array_equal(first[0], first[2])
    assert len(lm.asked("choices")) == 4 + 2 + 2, "the prior is computed once"
    assert judge.logprobs(lm, []).shape == (0, 4)


def test_scores_do_not_depend_on_the_other_texts() -> None:
    texts = [item.text for item in load_dataset("news").items[:20]]
    together = label_logprobs(FakeLanguageModel(), load_dataset("news"), texts)
    alone = [label_logprobs(FakeLanguageModel(), load_dataset("news"), [t])[0] for t in texts]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1)


def test_what_cannot_be_scored_is_refused() -> None:
    one_each = tuple(d for d in tiny().demonstrations if d.id.startswith("d0"))
    with pytest.raises(DataError, match="label 'world' has 1 demonstrations"):
        label_logprobs(FakeLanguageModel(), tiny(demonstrations=one_each), ["x"])
    with pytest.raises(DataError, match="cannot be scored"):
        label_logprobs(FakeLanguageModel(), load_dataset("relations"), ["x"])
    with pytest.raises(DataError, match="not an inference item's text"):
        label_logprobs(FakeLanguageModel(), load_dataset("inference"), ["no pair"])


# -- rows ----------------------------------------------------------------------------------------


def rows(lm: FakeLanguageModel, dataset: Dataset, **options: Any) -> list[CounterfactualRow]:
    found = list(Counterfactual(**options).rows(lm, dataset, dataset.items, seed=0))
    assert all(isinstance(row, CounterfactualRow) for row in found)
    return [row for row in found if isinstance(row, CounterfactualRow)]


def test_a_row_holds_what_happened() -> None:
    dataset = tiny()
    lm = FakeLanguageModel(reply=edits_to("A robot today, again."), choose=reads_topics)
    world = rows(lm, dataset)[0]
    assert (world.item, world.group, world.part) == ("i-world", "g-world", "text")
    assert (world.original, world.context) == ("A war today.", "")
    assert (world.gold, world.predicted) == ("world", "world")
    assert world.target in {"sports", "business", "technology"}
    assert (world.edited, world.failure) == ("A robot today, again.", None)
    assert (world.raw, world.stopped, world.tokens) == ("A robot today, again.", "stop", 10)
    assert world.labels == list(TOPICS)
    assert np.argmax(world.original_scores) == 0
    assert np.argmax(world.edited_scores or ()) == 3
    asked = lm.asked("generate")[0]
    assert asked.endswith(
        f"Text about world: A war today.\nSame text, changed to be about {world.target}: <edit>"
    )
    assert asked.count("</edit>") == 4


def test_the_prediction_is_the_models_own_and_never_the_target() -> None:
    lm = FakeLanguageModel(choose=lambda p, c: -0.1 if c == " business" and "demo" not in query(p) else -2.0)
    found = rows(lm, tiny())
    assert [row.predicted for row in found] == ["business"] * 4
    assert all(row.target != "business" for row in found)


def test_targets_depend_on_seed_item_and_prediction_only() -> None:
    dataset = take(load_dataset("news"), 60, 0)
    lm = FakeLanguageModel()
    first = [r.target for r in rows(lm, dataset)]
    assert set(first) == set(dataset.labels)
    assert first == [r.target for r in rows(FakeLanguageModel(reply=edits_to("x")), dataset)]
    reverse = dataset.model_copy(update={"items": dataset.items[::-1]})
    assert first == [r.target for r in rows(FakeLanguageModel(), reverse)][::-1]
    other = [r.target for r in Counterfactual().rows(lm, dataset, dataset.items, 1)]  # type: ignore[attr-defined]
    assert first != other


@pytest.mark.parametrize("part", ["hypothesis", "premise"])
def test_one_part_of_a_pair_is_edited_and_the_pair_is_judged(part: Any) -> None:
    dataset = take(load_dataset("inference"), 3, 0)
    lm = FakeLanguageModel(reply=edits_to("Something else."))
    row, item = rows(lm, dataset, edit=part)[0], dataset.items[0]
    other = "premise" if part == "hypothesis" else "hypothesis"
    assert (row.part, row.original, row.context) == (part, item.fields[part], item.fields[other])
    pair = {other: item.fields[other], part: "Something else."}
    judged = f'"{pair["premise"]}" Does this mean that "{pair["hypothesis"]}"?'
    assert judged in [query(p) for p in lm.asked("choices")]
    assert judged_text(part, row.context, "Something else.") == inference_text(
        pair["premise"], pair["hypothesis"]
    )
    asked = query(lm.asked("generate")[0])
    assert item.fields["premise"] in asked
    assert item.fields["hypothesis"] in asked
    assert asked.endswith(f"to {row.target}: <edit>")


def test_a_failure_keeps_what_was_said_and_has_no_edit() -> None:
    cut = "cut off and so this one never ended"
    answers = iter(["A war today", "", cut, "A good edit."])
    said: Iterator[str] = (a + ("" if a.startswith("cut") else "</edit>") for a in answers)
    lm = FakeLanguageModel(reply=lambda prompt: next(said))
    found = rows(lm, tiny(), max_new_tokens=8)
    assert [r.failure for r in found] == ["unchanged", "empty", "unparsed", None]
    assert [r.edited for r in found] == [None, None, None, "A good edit."]
    assert [r.raw for r in found] == ["A war today", "", cut, "A good edit."]
    assert [r.edited_scores is None for r in found] == [True, True, True, False]
    assert [r.stopped for r in found] == ["stop", "stop", "length", "stop"]
    queries = [query(p) for p in lm.asked("choices")]
    assert len(queries) == 4 + 4 + 1, "a failure is not judged"


def test_a_model_that_forgets_the_tag_is_stopped_at_the_line() -> None:
    lm = FakeLanguageModel(reply=lambda prompt: "A robot.\nText about world: more and more\n")
    row = rows(lm, tiny())[0]
    assert (row.edited, row.raw, row.stopped, row.tokens) == ("A robot.", "A robot.", "stop", 4)


# -- parsing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "stopped", "edited"),
    [
        ("A new text.", "stop", "A new text."),
        ("  A new\ttext. ", "stop", "A new text."),
        ("A new text.</edit> and more", "length", "A new text."),
        ("A new text.</Edit", "length", "A new text."),
        ("A new text.<\\edit>", "length", "A new text."),
        ("A new text.", "end", "A new text."),
        ("A new text.\nText about sports: another", "length", "A new text."),
        ("\n\nA new text.\n\n", "length", "A new text."),
        ("<edit>A new text.</edit>", "end", "A new text."),
        ("Edited text: <edit>A new text.</edit><edit>B</edit>", "end", "A new text."),
        ("News: A new text.", "stop", "A new text."),
        ('"A new text."', "stop", "A new text."),
        ("“A new text.”", "stop", "A new text."),
        ("'A new text.'", "stop", "A new text."),
        ('"A" and "B"', "stop", '"A" and "B"'),
        ("'Tis Tom's 'x'", "stop", "'Tis Tom's 'x'"),
        ("5 < 6 in a text", "stop", "5 < 6 in a text"),
    ],
)
def test_edits_are_read_tolerantly(raw: str, stopped: Any, edited: str) -> None:
    assert parse_edit(Generation(raw, 9, stopped), "The old text.") == (edited, None)


@pytest.mark.parametrize(
    ("raw", "stopped", "failure"),
    [
        ("", "stop", "empty"),
        (" \n ", "length", "empty"),
        ("</edit>", "end", "empty"),
        ('""', "stop", "empty"),
        ("...", "stop", "empty"),
        ("The old text.", "stop", "unchanged"),
        ("the  OLD text", "stop", "unchanged"),
        ('"The old text."</edit>', "length", "unchanged"),
        ("A text that never ends and", "length", "unparsed"),
        ("Text about sports: The goal", "stop", "unparsed"),
        ("Same text, changed to be about world: x", "stop", "unparsed"),
        ("Premise: A man", "stop", "unparsed"),
    ],
)
def test_what_is_no_edit_has_a_reason(raw: str, stopped: Any, failure: str) -> None:
    assert parse_edit(Generation(raw, 9, stopped), "The old text.") == (None, failure)
    assert failure in get_args(Failure)


def test_field_names_are_those_of_the_edited_part() -> None:
    said = Generation("Hypothesis: A man sleeps.", 9, "stop")
    assert parse_edit(said, "x", "hypothesis") == ("A man sleeps.", None)
    assert parse_edit(said, "x", "premise") == (None, "unparsed")
    assert parse_edit(Generation("Hypothesis, neutral: A man", 9, "stop"), "x", "hypothesis")[0] is None


# -- identity ------------------------------------------------------------------------------------


def test_the_digest_covers_options_and_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Counterfactual().digest()
    assert Counterfactual(max_new_tokens=96, edit="hypothesis").digest() == plain
    assert Counterfactual(max_new_tokens=97).digest() != plain
    assert len({Counterfactual(protocol=p).digest() for p in PROTOCOLS}) == 3
    read = prompts.read
    for name in ("counterfactual_naive", "labels"):
        changed = {name: {**read(name), "version": 2}}
        monkeypatch.setattr(prompts, "read", lambda n, changed=changed: changed.get(n, read(n)))
        assert Counterfactual().digest() != plain, f"{name} is not part of the digest"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("part", ["topic", "sentiment", "hypothesis", "premise"])
def test_prompt_demonstrations_change_labels_and_are_nobodys_items(protocol: str, part: str) -> None:
    name = {"topic": "news", "sentiment": "reviews"}.get(part, "inference")
    dataset = load_dataset(name)
    examples = prompts.read(f"counterfactual_{protocol}")[part]["examples"]
    assert {e["target"] for e in examples} == set(dataset.labels)
    assert all(e["target"] != e["predicted"] for e in examples)
    shown = "".join(prompts.protocol(f"counterfactual_{protocol}", part).dialogue(0, Everything()).plain())
    assert shown.count("<edit>") >= shown.count("</edit>") == len(examples) == 4
    for item in (*dataset.items, *dataset.demonstrations):
        assert item.fields.get("premise", item.text) not in shown


# -- protocols in turns --------------------------------------------------------------------------


class Everything(dict[str, str]):
    """Values for any field."""

    def __missing__(self, key: str) -> str:
        return f"[{key}]"


def answers_in_turns(prompt: str) -> str:
    asked = query(prompt).splitlines()[-1]
    if "features" in asked and "Which features" in asked:
        return " a trade, a market\nWhich words"
    if asked.startswith("Which words"):
        return " shares\n"
    return "A goal today.</edit>\n"


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_so_many_worked_examples_are_shown(shots: int) -> None:
    lm = FakeLanguageModel()
    list(Counterfactual(shots=shots).rows(lm, tiny(), tiny().items, seed=0))
    assert {prompt.count("</edit>") for prompt in lm.asked("generate")} == {shots}
    assert {prompt.count("<edit>") for prompt in lm.asked("generate")} == {shots + 1}


def test_guided_asks_for_the_words_and_then_for_an_edit_of_only_these() -> None:
    lm = FakeLanguageModel(reply=answers_in_turns, choose=reads_topics)
    dataset = tiny()
    (row,) = Counterfactual(protocol="guided").rows(lm, dataset, dataset.items[2:3], seed=0)
    assert isinstance(row, CounterfactualRow)
    assert (row.predicted, row.steps, row.edited, row.failure) == (
        "business",
        [" shares"],
        "A goal today.",
        None,
    )
    first, second = lm.asked("generate")
    asked = "Text about business: A shares today.\nWhich words make it a text about business?"
    assert query(first) == asked
    assert query(second) == (
        f"{asked} shares\nSame text with only these words changed, to be about {row.target}: <edit>"
    )


def test_flare_asks_for_features_words_and_the_edit() -> None:
    lm = FakeLanguageModel(reply=answers_in_turns, choose=reads_topics)
    dataset = tiny()
    (row,) = Counterfactual(protocol="flare").rows(lm, dataset, dataset.items[2:3], seed=0)
    assert isinstance(row, CounterfactualRow)
    assert row.steps == [" a trade, a market", " shares"]
    assert row.edited == "A goal today."
    assert [query(p).splitlines()[-1].split("?")[0] for p in lm.asked("generate")[:2]] == [
        "Which features make it a text about business",
        "Which words of the text carry these features",
    ]
    assert "business? a trade, a market\nWhich words" in query(lm.asked("generate")[1])


def test_an_item_without_words_is_asked_no_further_and_counted() -> None:
    lm = FakeLanguageModel(
        reply=lambda prompt: " ,\n" if "war" in query(prompt) else answers_in_turns(prompt)
    )
    dataset = tiny()
    rows = list(Counterfactual(protocol="guided").rows(lm, dataset, dataset.items, seed=0))
    assert [r.failure for r in rows if isinstance(r, CounterfactualRow)] == [
        "step",
        "unchanged",
        None,
        None,
    ]
    assert len(lm.asked("generate")) == 4 + 3


def test_an_edit_copied_from_a_worked_example_is_none() -> None:
    example = prompts.read("counterfactual_naive")["topic"]["examples"][1]["edited"]
    lm = FakeLanguageModel(reply=lambda prompt: f"{example.upper()}</edit>")
    (row,) = Counterfactual().rows(lm, tiny(), tiny().items[:1], seed=0)
    assert isinstance(row, CounterfactualRow)
    assert (row.edited, row.failure) == (None, "copied")


@pytest.mark.parametrize(
    "raw",
    [
        "Which words make it a text about sports? goal",
        "Text about sports: A goal.",
        "A negative review: Bad.",
        "Same text with only these words changed, to be about sports: A goal.",
        "Review: Bad.",
    ],
)
def test_a_repeated_prompt_is_no_edit(raw: str) -> None:
    assert parse_edit(Generation(raw, 9, "stop"), "The old text.", "hypothesis") == (None, "unparsed")


def test_the_chat_format_is_used_unless_it_is_turned_off() -> None:
    class Chat(FakeLanguageModel):
        def prompt(self, dialogue: Any, *, chat: bool = True) -> str:
            return ("<chat>" if chat else "") + dialogue.plain()

    for option in (True, False):
        lm = Chat()
        list(Counterfactual(chat=option).rows(lm, tiny(), tiny().items, seed=0))
        assert {p.startswith("<chat>") for p in lm.asked("generate")} == {option}
