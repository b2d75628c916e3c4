"""Data sets: what is built in, what published formats become, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quantxai import datasets
from quantxai._builtin import news as read_news
from quantxai._two_hop import two_hop
from quantxai.datasets import (
    Dataset,
    calibration_texts,
    choice_text,
    dataset_names,
    dataset_tasks,
    load_dataset,
    take,
    verification_text,
)
from quantxai.errors import DataError, MissingExtra, UnknownName
from quantxai.records import Item

pytestmark = pytest.mark.bare

BUILT_IN = ("news", "inference", "relations", "reviews", "claims", "questions", "two_hop")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def sequences(text: str, n: int = 8) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# -- built-in sets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task", "items", "demonstrations"),
    [
        ("news", "topic", 160, 16),
        ("inference", "inference", 180, 24),
        ("relations", "recall", 756, 81),
        ("reviews", "sentiment", 80, 16),
        ("claims", "verification", 48, 12),
        ("questions", "choice", 60, 15),
        ("two_hop", "composition", 273, 36),
    ],
)
def test_built_in_sets_have_their_sizes(name: str, task: str, items: int, demonstrations: int) -> None:
    dataset = load_dataset(name)
    assert (dataset.task, len(dataset.items), len(dataset.demonstrations)) == (task, items, demonstrations)
    everything = [*dataset.items, *dataset.demonstrations]
    assert len({item.id for item in everything}) == len(everything)
    assert dataset.source == "built in"
    assert not {i.text for i in dataset.items} & {d.text for d in dataset.demonstrations} or task == "recall"


@pytest.mark.parametrize("name", ["news", "inference", "reviews", "claims", "questions"])
def test_labelled_sets_are_balanced(name: str) -> None:
    dataset = load_dataset(name)
    for items in (dataset.items, dataset.demonstrations):
        counts = Counter(item.label for item in items)
        assert set(counts) == set(dataset.labels)
        assert len(set(counts.values())) == 1


def test_inference_items_group_by_premise_and_hold_their_parts() -> None:
    dataset = load_dataset("inference")
    item = dataset.items[0]
    assert item.text == f"Premise: {item.fields['premise']}\nHypothesis: {item.fields['hypothesis']}"
    assert item.group == item.fields["premise"]
    assert item.fields["explanation"]
    assert set(Counter(i.group for i in dataset.items).values()) == {3}
    assert not {i.group for i in dataset.items} & {d.group for d in dataset.demonstrations}


def test_claims_group_by_claim_and_hold_their_parts() -> None:
    dataset = load_dataset("claims")
    assert dataset.labels == ("supported", "refuted", "not enough information")
    for item in (*dataset.items, *dataset.demonstrations):
        assert set(item.fields) == {"claim", "evidence", "explanation"}
        assert item.text == f"Claim: {item.fields['claim']}\nEvidence: {item.fields['evidence']}"
        assert item.group == item.fields["claim"]
    claims = Counter(item.group for item in (*dataset.items, *dataset.demonstrations))
    assert len(claims) == 60, "a claim occurs twice"


def test_questions_have_five_options_and_one_right_letter() -> None:
    dataset = load_dataset("questions")
    item = next(i for i in dataset.items if i.group.startswith("What do bees collect"))
    assert item.fields[str(item.label)] == "nectar"
    for item in (*dataset.items, *dataset.demonstrations):
        question, *options = item.text.split("\n")
        assert item.group == item.fields["question"] == question
        assert options == [f"{letter}: {item.fields[letter]}" for letter in "ABCDE"]
        assert len({item.fields[letter] for letter in "ABCDE"}) == 5
        assert item.fields["explanation"]
    assert len({i.group for i in (*dataset.items, *dataset.demonstrations)}) == 75, "a question occurs twice"


def test_texts_of_parts() -> None:
    assert verification_text("Ice floats.", "It is light.") == "Claim: Ice floats.\nEvidence: It is light."
    assert choice_text("Which?", list("vwxyz")) == "Which?\nA: v\nB: w\nC: x\nD: y\nE: z"
    with pytest.raises(ValueError, match="shorter"):
        choice_text("Which?", ["only one"])


def test_relations_hold_subject_object_and_template() -> None:
    dataset = load_dataset("relations")
    assert len({item.group for item in dataset.items}) == 27
    capital = next(i for i in dataset.items if i.group == "country capital city" and i.text == "France")
    assert capital.label == "Paris"
    assert capital.fields == {
        "relation": "country capital city",
        "template": "The capital city of {} is",
        "subject": "France",
    }
    pairs = {(i.group, i.text) for i in dataset.items}
    assert not pairs & {(d.group, d.text) for d in dataset.demonstrations}


def test_two_hop_questions_compose_two_facts() -> None:
    dataset = load_dataset("two_hop")
    questions = [*dataset.items, *dataset.demonstrations]
    eiffel = next(q for q in questions if "Eiffel" in q.text and "capital" in q.text)
    assert eiffel.text == "The capital city of the country that is home to the Eiffel Tower is"
    assert (eiffel.label, eiffel.group) == ("Paris", "France")
    assert eiffel.fields == {
        "relations": "landmark_country+country_capital",
        "subject": "the Eiffel Tower",
        "bridge": "France",
        "bridge_aliases": "",
        "description": "the country that is home to the Eiffel Tower",
        "first_prompt": "The landmark known as the Eiffel Tower is located in the country of",
        "second_prompt": "The capital city of France is",
        "entity_prompt": "The capital city of the country that is home to the Alhambra",
        "relation_prompt": "The capital city of the country farthest away from the Eiffel Tower",
    }
    facts = {(i.text, i.label) for i in load_dataset("relations").items}
    for question in questions:
        fields = question.fields
        assert (fields["subject"], fields["bridge"]) in facts
        assert (fields["bridge"], question.label) in facts
        assert fields["bridge"] not in question.text, "the question gives the bridge away"
        assert question.text.count(fields["description"]) == 1


def test_two_hop_controls_keep_all_but_the_subject_or_the_relation() -> None:
    dataset = load_dataset("two_hop")
    for question in (*dataset.items, *dataset.demonstrations):
        fields, (before, _) = question.fields, question.text.split(question.fields["description"])
        (other,) = (
            q
            for q in (*dataset.items, *dataset.demonstrations)
            if q.fields["relations"] == fields["relations"] and q.text.startswith(fields["entity_prompt"])
        )
        assert fields["entity_prompt"] == before + other.fields["description"]
        assert other.fields["subject"] != fields["subject"]
        assert first_word(other.fields["bridge"]) != first_word(fields["bridge"])
        assert fields["relation_prompt"].startswith(before)
        assert fields["subject"] in fields["relation_prompt"]
        assert fields["relation_prompt"].removeprefix(before) != fields["description"]


def first_word(name: str) -> str:
    return name.split()[0]


def test_no_evaluated_two_hop_question_shares_a_bridge_with_a_demonstration() -> None:
    dataset = load_dataset("two_hop")
    shown = {d.fields["bridge"] for d in dataset.demonstrations}
    assert not shown & {i.fields["bridge"] for i in dataset.items}
    assert set(Counter(d.fields["relations"] for d in dataset.demonstrations).values()) == {3}
    pairs = {i.fields["relations"] for i in dataset.items}
    assert {d.fields["relations"] for d in dataset.demonstrations} == pairs
    assert Counter(i.fields["relations"] for i in take(dataset, 12, seed=0).items) == dict.fromkeys(pairs, 1)


def test_no_two_clusters_of_two_hop_questions_share_a_one_hop_prompt() -> None:
    """What is asked in two clusters would be one measurement that counts as two independent ones."""
    items = load_dataset("two_hop").items
    for name in ("first_prompt", "second_prompt"):
        groups: dict[str, set[str]] = {}
        for item in items:
            groups.setdefault(item.fields[name], set()).add(item.group)
        assert len(groups) < len(items), "no prompt is shared, so nothing was tested"
        assert {prompt: of for prompt, of in groups.items() if len(of) > 1} == {}


def two_hop_folder(folder: Path, countries: dict[str, str]) -> Path:
    """A copy of the built-in form with one pair of relations: landmark -> country -> its capital."""
    facts = {
        "landmark_country": {f"the Tower {k}": country for k, country in enumerate(countries)},
        "country_capital": countries,
    }
    for name, samples in facts.items():
        told = {
            "name": name.replace("_", " "),
            "prompt_templates": ["{} has"],
            "samples": [{"subject": s, "object": o, "split": "evaluation"} for s, o in samples.items()],
        }
        write(folder / "relations" / f"{name}.json", json.dumps(told))
    pair = {
        "first": "landmark_country",
        "second": "country_capital",
        "description": "the land of {}",
        "other_description": "the land far from {}",
        "template": "The capital of the land of {} is",
        "first_template": "{} stands in",
        "second_template": "The capital of {} is",
    }
    write(folder / "two_hop.json", json.dumps([pair]))
    return folder


@pytest.mark.parametrize(
    ("countries", "substitutes"),
    [
        ({"Peru": "Lima"}, [None]),
        ({"South Korea": "Seoul", "South Africa": "Pretoria"}, [None, None]),
        (
            {"South Korea": "Seoul", "South Africa": "Pretoria", "Peru": "Lima"},
            ["the Tower 2", "the Tower 2", "the Tower [01]"],
        ),
    ],
)
def test_another_bridge_begins_with_another_word_or_there_is_none(
    tmp_path: Path, countries: dict[str, str], substitutes: list[str | None]
) -> None:
    (tmp_path / "relations").mkdir()
    found = two_hop(two_hop_folder(tmp_path, countries))["evaluation"]
    for item, substitute in zip(found, substitutes, strict=True):
        prompt = item.fields.get("entity_prompt")
        if substitute is None:
            assert prompt is None
        else:
            assert re.fullmatch(f"The capital of the land of {substitute}", str(prompt))


# -- calibration ---------------------------------------------------------------------------------


def test_calibration_mixes_headlines_pairs_and_facts_in_a_seeded_order() -> None:
    texts = calibration_texts(0)
    assert texts == calibration_texts(0)
    assert texts != calibration_texts(1)
    assert sorted(texts) == sorted(calibration_texts(1))
    pairs = [t for t in texts if re.fullmatch(r"Premise: .+\nHypothesis: .+\nLabel: \w+\nExplanation: .+", t)]
    facts = [t for t in texts if "\n" not in t and len(words(t)) < 20]
    assert (len(texts), len(pairs), len(facts)) == (348, 120, 108)


def test_calibration_shares_nothing_with_what_is_evaluated() -> None:
    calibration = calibration_texts(0)
    everything = "\n".join(calibration)
    seen = set().union(*map(sequences, calibration))
    for name in BUILT_IN:
        dataset = load_dataset(name)
        for item in (*dataset.items, *dataset.demonstrations):
            parts = [item.text, *item.fields.values()]
            if dataset.task == "choice":
                parts = [item.text, item.fields["question"], item.fields["explanation"]]
            if dataset.task == "recall":
                parts = [f"{item.fields['template'].replace('{}', item.text)} {item.label}"]
            if dataset.task == "composition":
                parts = [item.text]  # its facts are those of `relations`
            for part in parts:
                assert part not in everything
                assert not sequences(part) & seen, f"{item.id}: 8 words in a row are in the calibration text"


def test_no_calibration_fact_is_an_evaluated_one() -> None:
    facts = [t for t in calibration_texts(0) if "\n" not in t and len(words(t)) < 20]
    for item in load_dataset("relations").items:
        subject, answer = words(item.text), words(str(item.label))
        for fact in facts:
            found = words(fact)
            ends = found[-len(answer) :] == answer
            holds = any(found[i : i + len(subject)] == subject for i in range(len(found)))
            assert not (ends and holds), f"{item.id} is in the calibration text: {fact}"


def test_a_built_in_file_that_repeats_an_item_is_refused(tmp_path: Path) -> None:
    line = json.dumps({"id": "n1", "text": "A text.", "label": "world", "split": "evaluation"})
    write(tmp_path / "news.jsonl", f"{line}\n{line.replace('n1', 'n2')}\n")
    with pytest.raises(DataError, match=r"news\.jsonl: n2: repeats"):
        read_news(tmp_path)
    write(tmp_path / "news.jsonl", f"{line}\nnot json\n")
    with pytest.raises(DataError, match=r"news\.jsonl, line 2: not JSON"):
        read_news(tmp_path)


# -- take ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_take_is_stratified_nested_and_deterministic(name: str) -> None:
    dataset = load_dataset(name)
    smaller: set[str] = set()
    for n in (1, 5, 24, 25, 44):
        sample = take(dataset, n, seed=3)
        ids = [item.id for item in sample.items]
        assert len(ids) == n
        assert ids == [item.id for item in dataset.items if item.id in set(ids)], "not in the file's order"
        counts = Counter(
            i.label if dataset.labels else i.fields.get("relations", i.group) for i in sample.items
        )
        strata = {"relations": 27, "two_hop": 12}.get(name, len(dataset.labels))
        assert max(counts.values()) - min([*counts.values(), *[0] * (strata - len(counts))]) <= 1
        assert smaller <= set(ids), "a larger sample keeps a smaller one"
        smaller = set(ids)
        assert take(dataset, n, seed=3) == sample
    assert {i.id for i in take(dataset, 44, seed=4).items} != smaller


def test_take_all() -> None:
    dataset = load_dataset("news")
    assert take(dataset, None, 0) is dataset
    assert take(dataset, 10_000, 0) is dataset
    with pytest.raises(DataError, match="at least 1"):
        take(dataset, 0, 0)


def test_take_goes_on_with_the_other_strata_when_one_runs_out() -> None:
    items = tuple(Item(id=f"i{k}", text=str(k), label="ab"[k < 2], group=str(k)) for k in range(10))
    dataset = load_dataset("news").model_copy(update={"items": items})
    assert Counter(i.label for i in take(dataset, 8, 0).items) == {"a": 6, "b": 2}


# -- published formats ---------------------------------------------------------------------------


def esnli_rows(n: int = 18) -> list[tuple[str, str, str, str]]:
    labels = ("entailment", "neutral", "contradiction")
    return [(f"Premise {k}.", f"Hypothesis, {k}.", labels[k % 3], f"Because {k}.") for k in range(n)]


def csv_text(header: str, rows: list[tuple[str, ...]]) -> str:
    lines = [",".join('"' + value.replace('"', '""') + '"' for value in row) for row in rows]
    return "\n".join([header, *lines]) + "\n"


def test_esnli_as_published(tmp_path: Path) -> None:
    rows = esnli_rows()
    rows.append(("Premise 0.", "Another hypothesis of a demonstration's premise.", "neutral", "x"))
    rows.append(rows[14])
    path = write(tmp_path / "dev.csv", csv_text("premise,hypothesis,label,explanation", rows))
    dataset = load_dataset("esnli", path)
    assert (dataset.name, dataset.task, dataset.licence) == ("esnli", "inference", "MIT")
    assert dataset.source == f"{path} (1 repeated items left out)"
    assert Counter(d.label for d in dataset.demonstrations) == dict.fromkeys(dataset.labels, 4)
    assert [i.id for i in dataset.items] == [f"esnli-{k:06d}" for k in range(13, 19)]
    first = dataset.items[0]
    assert first.text == "Premise: Premise 12.\nHypothesis: Hypothesis, 12."
    assert (first.label, first.group) == ("entailment", "Premise 12.")
    assert first.fields == {
        "premise": "Premise 12.",
        "hypothesis": "Hypothesis, 12.",
        "explanation": "Because 12.",
    }


def test_no_demonstration_shares_its_premise(tmp_path: Path) -> None:
    rows = [
        (f"Premise {k}.", f"Hypothesis {k} {name}.", name, "x")
        for k in range(14)
        for name in datasets.RELATIONS_OF_PAIRS
    ]
    path = write(tmp_path / "dev.csv", csv_text("premise,hypothesis,label,explanation", rows))
    dataset = load_dataset("esnli", path)
    assert [d.group for d in dataset.demonstrations] == [f"Premise {k}." for k in range(12)]
    assert {i.group for i in dataset.items} == {"Premise 12.", "Premise 13."}


@pytest.mark.parametrize(
    ("header", "label"),
    [
        ("premise,hypothesis,label,explanation_1", lambda name: str(datasets.RELATIONS_OF_PAIRS.index(name))),
        ("Sentence1,Sentence2,gold_label,Explanation_1", str),
        ("\ufeffpremise,hypothesis,label,explanation", str),
    ],
    ids=["hub", "authors", "byte order mark"],
)
def test_esnli_under_other_column_names(tmp_path: Path, header: str, label: Any) -> None:
    plain = load_dataset(
        "esnli", write(tmp_path / "a.csv", csv_text("premise,hypothesis,label,explanation", esnli_rows()))
    )
    rows = [(p, h, label(name), e) for p, h, name, e in esnli_rows()]
    other = load_dataset("esnli", write(tmp_path / "b.csv", csv_text(header, rows)))
    assert (other.items, other.demonstrations) == (plain.items, plain.demonstrations)


def test_ag_news_as_published(tmp_path: Path) -> None:
    names = ("the world", "sports", "business", "science/tech")
    rows = [(f"Text number {k}", names[k % 4]) for k in range(16)]
    rows += [
        ("Haiti #39;s team beats workers #39; club,  quot;hard luck, quot; a #36;5 fan #39;Jim", "sports"),
        ("BlackRock &lt;A HREF=&quot;x&quot;&gt;BLK&lt;/A&gt; AT amp;T fresh\\jumper for \\$29", "business"),
    ]
    dataset = load_dataset("ag_news", write(tmp_path / "test.csv", csv_text("text,label", rows)))
    assert [d.label for d in dataset.demonstrations[:4]] == ["world", "sports", "business", "technology"]
    assert [(i.text, i.label) for i in dataset.items] == [
        ("Haiti's team beats workers' club, \"hard luck,\" a $5 fan 'Jim", "sports"),
        ('BlackRock <A HREF="x">BLK</A> AT&T fresh jumper for $29', "business"),
    ]
    assert dataset.items[0].group == dataset.items[0].id


def sst2_rows(n: int = 12) -> list[tuple[str, str]]:
    return [(f"Sentence number {k}", "01"[k % 2]) for k in range(n)]


def test_sst2_as_published(tmp_path: Path) -> None:
    rows = [*sst2_rows(), ("Sentence number 9", "1"), ("`` good \"film, isn't it", "1")]
    dataset = load_dataset(
        "sst2",
        write(
            tmp_path / "dev.csv",
            csv_text("idx,sentence,label", [(str(k), *row) for k, row in enumerate(rows)]),
        ),
    )
    assert (dataset.task, dataset.labels) == ("sentiment", ("positive", "negative"))
    assert dataset.source.endswith("(1 repeated items left out)")
    assert Counter(d.label for d in dataset.demonstrations) == {"positive": 4, "negative": 4}
    assert [(i.text, i.label) for i in dataset.items] == [
        ("Sentence number 8", "negative"),
        ("Sentence number 9", "positive"),
        ("Sentence number 10", "negative"),
        ("Sentence number 11", "positive"),
        ("`` good \"film, isn't it", "positive"),
    ]
    assert dataset.items[0].group == dataset.items[0].id == "sst2-000009"
    glue = "".join(f"{line}\n" for line in ["sentence\tlabel", *("\t".join(row) for row in rows)])
    same = load_dataset("sst2", write(tmp_path / "dev.tsv", glue))
    assert (same.items, same.demonstrations) == (dataset.items, dataset.demonstrations)


def test_a_quote_that_opens_a_line_of_glue_does_not_swallow_the_next(tmp_path: Path) -> None:
    rows = [("Plain", "0"), *sst2_rows(), ('"Rosebud', "1"), ("Next", "0")]
    text = "".join(f"{line}\n" for line in ["sentence\tlabel", *("\t".join(row) for row in rows)])
    dataset = load_dataset("sst2", write(tmp_path / "dev.tsv", text))
    assert [i.text for i in dataset.items][-2:] == ['"Rosebud', "Next"]


HEALTHFC = "en_claim,de_claim,en_text,en_explanation,en_sentences,en_ids,label,url"


def healthfc_row(k: int, **changes: str) -> tuple[str, ...]:
    row = {
        "en_claim": f"Does remedy {k} help?",
        "de_claim": f"Hilft Mittel {k}?",
        "en_text": "A long article.",
        "en_explanation": f"Because of {k}.",
        "en_sentences": str([f"Not this {k}.", f"It's tested in {k} trials. ", "Nor this.", f"So {k}."]),
        "en_ids": "[3, 1]",
        "label": str(k % 3),
        "url": "",
    }
    return tuple({**row, **changes}.values())


def test_healthfc_as_published(tmp_path: Path) -> None:
    rows = [healthfc_row(k) for k in range(15)]
    rows += [rows[13], healthfc_row(2, en_ids="[0]"), healthfc_row(15, label="Refuted", en_explanation="")]
    path = write(tmp_path / "healthFC_annotated.csv", csv_text(HEALTHFC, rows))
    dataset = load_dataset("healthfc", path)
    assert (dataset.task, dataset.labels) == (
        "verification",
        ("supported", "refuted", "not enough information"),
    )
    assert dataset.source == f"{path} (1 repeated items left out)"
    assert [(i.id, i.label) for i in dataset.items] == [
        ("healthfc-000013", "supported"),
        ("healthfc-000014", "not enough information"),
        ("healthfc-000015", "refuted"),
        ("healthfc-000018", "refuted"),
    ]
    item = dataset.items[0]
    assert item.text == "Claim: Does remedy 12 help?\nEvidence: It's tested in 12 trials. So 12."
    assert item.group == "Does remedy 12 help?"
    assert item.fields == {
        "claim": "Does remedy 12 help?",
        "evidence": "It's tested in 12 trials. So 12.",
        "explanation": "Because of 12.",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "3"}, r"unknown label '3'; expected one of supported, not enough information, refuted"),
        ({"en_claim": " "}, r"column 'en_claim' is empty"),
        (
            {"en_sentences": "['open"},
            r"'en_sentences' is not a list of str in Python's notation, found .*open",
        ),
        ({"en_sentences": "[1, 2, 3, 4]"}, r"'en_sentences' is not a list of str"),
        ({"en_ids": "1, 3"}, r"'en_ids' is not a list of int"),
        ({"en_ids": "[4]"}, r"'en_ids' holds 4, but there are 4 sentences"),
        ({"en_ids": "[-1]"}, r"'en_ids' holds -1"),
        ({"en_ids": "[]"}, r"'en_ids' points at no text"),
    ],
)
def test_bad_healthfc_is_refused_with_its_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    rows = [healthfc_row(0), healthfc_row(1, **changes)]
    path = write(tmp_path / "bad.csv", csv_text(HEALTHFC, rows))
    with pytest.raises(DataError, match=r"bad\.csv, line 3: .*" + message):
        load_dataset("healthfc", path)


ECQA = ",q_no,q_concept,q_text,q_op1,q_op2,q_op3,q_op4,q_op5,q_ans,taskA_pos,taskA_neg,taskB"


def ecqa_row(k: int, **changes: str) -> tuple[str, ...]:
    options = [f"option {k} {letter}" for letter in "abcde"]
    row = {
        "": str(k),
        "q_no": f"{k:032x}",
        "q_concept": "concept",
        "q_text": f"Question {k}?",
        **{f"q_op{place}": option for place, option in enumerate(options, 1)},
        "q_ans": options[k % 5],
        "taskA_pos": "One.\nTwo.",
        "taskA_neg": "Three.",
        "taskB": f"Because of {k}.",
    }
    return tuple({**row, **changes}.values())


def test_ecqa_as_published(tmp_path: Path) -> None:
    rows = [ecqa_row(k) for k in range(22)]
    rows += [rows[21], ecqa_row(22, q_op5="option 22 c"), ecqa_row(3, q_op1="other")]
    path = write(tmp_path / "cqa_data_test.csv", csv_text(ECQA, rows))
    dataset = load_dataset("ecqa", path)
    assert (dataset.task, dataset.labels) == ("choice", ("A", "B", "C", "D", "E"))
    assert dataset.source == f"{path} (1 repeated items left out)"
    assert [d.label for d in dataset.demonstrations] == [*"ABCDE"] * 4
    assert [(i.id, i.label, i.aliases) for i in dataset.items] == [
        ("ecqa-000021", "A", ()),
        ("ecqa-000022", "B", ()),
        ("ecqa-000024", "C", ("E",)),
    ], "an option that occurs twice has two letters"
    item = dataset.items[0]
    assert item.text == (
        "Question 20?\nA: option 20 a\nB: option 20 b\nC: option 20 c\nD: option 20 d\nE: option 20 e"
    )
    assert item.group == "Question 20?"
    assert item.fields == {
        "question": "Question 20?",
        **{letter: f"option 20 {letter.lower()}" for letter in "ABCDE"},
        "explanation": "Because of 20.",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"q_ans": "Option 1 b"},
            r"the answer 'Option 1 b' is none of the options 'option 1 a', 'option 1 b',",
        ),
        ({"q_ans": ""}, r"column 'q_ans' is empty"),
        ({"q_text": ""}, r"column 'q_text' is empty"),
        ({"q_op4": ""}, r"column 'q_op4' is empty"),
    ],
)
def test_bad_ecqa_is_refused_with_its_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    # A record of ECQA spans two lines: its positive properties are parted by a line break.
    path = write(tmp_path / "bad.csv", csv_text(ECQA, [ecqa_row(0), ecqa_row(1, **changes)]))
    with pytest.raises(DataError, match=r"bad\.csv, line 5: .*" + message):
        load_dataset("ecqa", path)


@pytest.mark.parametrize("name", ["esnli", "healthfc", "ecqa"])
def test_every_demonstration_has_an_explanation(tmp_path: Path, name: str) -> None:
    header, rows, labels = {
        "esnli": ("premise,hypothesis,label,explanation", esnli_rows(30), 3),
        "healthfc": (HEALTHFC, [healthfc_row(k) for k in range(30)], 3),
        "ecqa": (ECQA, [ecqa_row(k) for k in range(40)], 5),
    }[name]
    unexplained = [tuple("" if v.startswith("Because") else v for v in row) for row in rows[:5]]
    path = write(tmp_path / "set.csv", csv_text(header, [*unexplained, *rows[5:]]))
    dataset = load_dataset(name, path)
    assert Counter(d.label for d in dataset.demonstrations) == dict.fromkeys(dataset.labels, 4)
    numbers = [int(d.id.rpartition("-")[2]) for d in dataset.demonstrations]
    assert numbers == list(range(6, 6 + 4 * labels))
    assert [d.fields["explanation"] for d in dataset.demonstrations] == [
        f"Because {'of ' * (name != 'esnli')}{n - 1}." for n in numbers
    ]
    assert [i.fields["explanation"] for i in dataset.items[:5]] == [""] * 5, "they are evaluated"


TWO_HOP_FACT = (
    "uid,category,fact_comp_type,e1.value,e2.value,e2.aliases,e3.value,e3.aliases,mu.template,"
    "r1(e1).prompt,r2(e2).prompt,r2(r1(e1)).prompt,r2(r1(e1)).subject_cut.prompt,"
    "r2(r1(e1')).prompt,r2(r1(e1')).subject_cut.prompt,r2(r1'(e1)).prompt,r2(r1'(e1)).subject_cut.prompt"
)


def two_hop_row(k: int, **changes: str) -> tuple[str, ...]:
    row = {
        "uid": str(k),
        "category": "novel-author-country",
        "fact_comp_type": "country of the author of the novel",
        "e1": f"Novel {k}",
        "e2": f"Ann O'Reader {k}",
        "e2_aliases": str(((f"Ann O'Reader {k}", f"A. O'Reader {k}"), (f"Anny {k}",))),
        "e3": "Ireland",
        "e3_aliases": "(('Ireland', 'Éire'),)",
        "mu": "the author of the novel {}",
        "first": f"The author of the novel Novel {k} is",
        "second": f"Ann O'Reader {k} was born in the country of",
        "both": f"The author of the novel Novel {k} was born in the country of",
        "cut": f"The author of the novel Novel {k}",
        "entity": f"The author of the novel Tome {k} was born in the country of",
        "entity_cut": f"The author of the novel Tome {k}",
        "relation": f"A reader of the novel Novel {k} was born in the country of",
        "relation_cut": f"A reader of the novel Novel {k}",
    }
    return tuple({**row, **changes}.values())


def test_two_hop_fact_as_published(tmp_path: Path) -> None:
    rows = [two_hop_row(0), two_hop_row(1, e2_aliases=""), two_hop_row(0), two_hop_row(2, e2="", e3="")]
    rows.append(two_hop_row(0, e2="Another bridge of the same question"))
    path = write(tmp_path / "TwoHopFact.csv", csv_text(TWO_HOP_FACT, rows))
    dataset = load_dataset("twohopfact", path)
    assert (dataset.task, dataset.labels, dataset.demonstrations) == ("composition", (), ())
    assert dataset.source == f"{path} (2 repeated items left out)"
    assert [i.id for i in dataset.items] == [f"twohopfact-00000{n}" for n in (1, 2, 4)]
    item, plain, empty = dataset.items
    assert item.text == "The author of the novel Novel 0 was born in the country of"
    assert (item.label, item.aliases) == ("Ireland", ("Éire",))
    assert item.group == "Ann O'Reader 0"
    assert item.fields == {
        "relations": "country of the author of the novel",
        "category": "novel-author-country",
        "subject": "Novel 0",
        "bridge": "Ann O'Reader 0",
        "bridge_aliases": "A. O'Reader 0\nAnny 0",
        "description": "The author of the novel Novel 0",
        "first_prompt": "The author of the novel Novel 0 is",
        "second_prompt": "Ann O'Reader 0 was born in the country of",
        "entity_prompt": "The author of the novel Tome 0",
        "relation_prompt": "A reader of the novel Novel 0",
    }
    assert plain.fields["bridge_aliases"] == ""
    assert (empty.fields["bridge"], empty.label) == ("", ""), "whoever asks counts it"


def test_a_two_hop_fact_mention_is_the_cut_prompt_or_else_the_template(tmp_path: Path) -> None:
    rows = [two_hop_row(0, mu="{}, the novel, its author"), two_hop_row(1)]
    for lacking, expected in (
        ("uid", "The author of the novel Novel 0"),
        ("mu.template", "The author of the novel Novel 0"),
        ("r2(r1(e1)).subject_cut.prompt", "Novel 0, the novel, its author"),
    ):
        header = TWO_HOP_FACT.replace(f",{lacking},", ",another,")
        dataset = load_dataset("twohopfact", write(tmp_path / "a.csv", csv_text(header, rows)))
        assert dataset.items[0].fields["description"] == expected
    both = TWO_HOP_FACT.replace("mu.template", "mu").replace("r2(r1(e1)).subject_cut", "cut")
    with pytest.raises(DataError, match=r"'r2\(r1\(e1\)\)\.subject_cut\.prompt or mu\.template' is missing"):
        load_dataset("twohopfact", write(tmp_path / "b.csv", both + "\n"))


def test_two_hop_fact_is_sampled_by_its_types_of_composition(tmp_path: Path) -> None:
    rows = [two_hop_row(k, fact_comp_type="ab"[k > 7]) for k in range(10)]
    dataset = load_dataset("twohopfact", write(tmp_path / "a.csv", csv_text(TWO_HOP_FACT, rows)))
    assert Counter(i.fields["relations"] for i in take(dataset, 4, seed=0).items) == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"both": " "}, r"column 'r2\(r1\(e1\)\)\.prompt' is empty"),
        ({"fact_comp_type": ""}, r"column 'fact_comp_type' is empty"),
        ({"e2_aliases": "((open"}, r"'e2\.aliases' is not a list of lists of names .*open"),
        ({"e3_aliases": "('Ireland',)"}, r"'e3\.aliases' is not a list of lists of names"),
        ({"e3_aliases": "7"}, r"'e3\.aliases' is not a list of lists of names"),
    ],
)
def test_bad_two_hop_fact_is_refused_with_its_line(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    rows = [two_hop_row(0), two_hop_row(1, **changes)]
    path = write(tmp_path / "bad.csv", csv_text(TWO_HOP_FACT, rows))
    with pytest.raises(DataError, match=r"bad\.csv, line 3: .*" + message):
        load_dataset("twohopfact", path)


def relation(**changes: Any) -> dict[str, Any]:
    samples = [{"subject": f"s{k}", "object": f"o{k}"} for k in range(5)]
    plain = {"name": "some relation", "prompt_templates": ["The {} is", "A {} is"], "samples": samples}
    return {**plain, **changes}


def test_lre_as_published(tmp_path: Path) -> None:
    samples = [
        *relation()["samples"],
        {"subject": "Brazil", "object": "Bras\\u00edlia \\ud83d\\ude00"},
        {"subject": "Brazil", "object": "Rio"},
        {"subject": "Brazil", "object": "Rio"},
        {"subject": "s1", "object": "the answer of a demonstration"},
    ]
    one = write(tmp_path / "one.json", json.dumps(relation(samples=samples)))
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "two.json", json.dumps(relation(name="other")))
    dataset = load_dataset("lre", one)
    assert dataset.source == f"{one} (1 repeated items left out)"
    assert [(i.text, i.label) for i in dataset.items] == [
        ("s3", "o3"),
        ("s4", "o4"),
        ("Brazil", "Brasília 😀"),
        ("Brazil", "Rio"),
    ]
    assert [d.text for d in dataset.demonstrations] == ["s0", "s1", "s2"]
    assert dataset.items[0].fields == {"relation": "some relation", "template": "The {} is", "subject": "s3"}
    assert Counter(i.group for i in load_dataset("lre", tmp_path).items) == {"some relation": 4, "other": 2}


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """Replace the package `datasets`; return what it is asked for."""
    calls: list[tuple[Any, ...]] = []

    def fake_load(hub_id: str, *, split: str, revision: str) -> Any:
        calls.append((hub_id, split, revision))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("datasets")
    module.load_dataset = fake_load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


class Table(list[dict[str, Any]]):
    """What the Hub's package returns, as far as it is used."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0]) if self else []


def test_download_at_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, Table({"text": f"Text {k}", "label": k % 4} for k in range(20)))
    dataset = load_dataset("ag_news")
    assert calls == [("fancyzhx/ag_news", "test", datasets.AG_NEWS_REVISION)]
    assert re.fullmatch("[0-9a-f]{40}", datasets.AG_NEWS_REVISION)
    assert dataset.source == f"fancyzhx/ag_news at {datasets.AG_NEWS_REVISION}"
    assert [i.label for i in dataset.items] == ["world", "sports", "business", "technology"]
    load_dataset("ag_news", revision="abc")
    assert calls[-1][2] == "abc"


def test_download_of_esnli(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"premise": p, "hypothesis": h, "label": datasets.RELATIONS_OF_PAIRS.index(n), "explanation_1": e}
        for p, h, n, e in esnli_rows()
    ]
    calls = hub(monkeypatch, Table(rows))
    assert len(load_dataset("esnli").items) == 6
    assert calls == [("esnli/esnli", "validation", datasets.ESNLI_REVISION)]


def test_download_of_sst2_and_ecqa(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, Table({"idx": k, "sentence": f"Text {k}", "label": k % 2} for k in range(20)))
    dataset = load_dataset("sst2")
    assert [i.label for i in dataset.items[:2]] == ["negative", "positive"]
    assert re.fullmatch("[0-9a-f]{40}", datasets.SST2_REVISION)
    assert calls == [("stanfordnlp/sst2", "validation", datasets.SST2_REVISION)]
    columns = ECQA.split(",")[1:]
    rows = [dict(zip(columns, ecqa_row(k)[1:], strict=True)) for k in range(25)]
    calls = hub(monkeypatch, Table(rows))
    assert [i.label for i in load_dataset("ecqa").items] == [*"ABCDE"]
    assert calls == [("yangdong/ecqa", "test", datasets.ECQA_REVISION)]


def test_a_failed_download_asks_for_a_local_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("Couldn't reach the Hub\ndetails"))
    with pytest.raises(DataError, match=r"fancyzhx/ag_news.*Couldn't reach the Hub\).*path of a local copy"):
        load_dataset("ag_news")
    hub(monkeypatch, Table())
    with pytest.raises(DataError, match="column 'text', 'label' is missing"):
        load_dataset("ag_news")


def test_without_the_hub_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"\[models\]"):
        load_dataset("esnli")


def test_lre_and_healthfc_need_a_path() -> None:
    with pytest.raises(DataError, match=r"path.*evandez/relations"):
        load_dataset("lre")
    with pytest.raises(DataError, match=r"path.*healthFC_annotated\.csv.*jvladika/HealthFC"):
        load_dataset("healthfc")


# -- refused -------------------------------------------------------------------------------------

HEADER = "premise,hypothesis,label,explanation\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: column 'premise', 'hypothesis', 'label', 'explanation' is missing.*an empty file"),
        (HEADER, r"holds no items"),
        ("premise,label,explanation\na,neutral,c\n", r"line 1: column 'hypothesis' is missing; expected pre"),
        (HEADER + "a,b,neutral,c\nd,e,maybe,f\n", r"line 3: unknown label 'maybe'; expected one of entail"),
        (HEADER + "a,,neutral,c\n", r"line 2: column 'hypothesis' is empty"),
        (HEADER + "a,b\n", r"line 2: has no value for column 'label'"),
        (HEADER + "a,b,neutral,c\n", r"no item is left to evaluate"),
    ],
    ids=["empty", "header only", "missing column", "unknown label", "empty text", "short line", "too few"],
)
def test_bad_csv_is_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("esnli", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "header", "missing"),
    [
        ("sst2", "sentence,lable", "'label'"),
        ("healthfc", HEALTHFC.replace("en_ids", "ids"), "'en_ids'"),
        ("ecqa", ECQA.replace("q_op5", "q_op"), "'q_op5'"),
        ("twohopfact", TWO_HOP_FACT.replace("e2.value", "e2"), "'e2.value'"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, name: str, header: str, missing: str) -> None:
    path = write(tmp_path / "bad.csv", header + "\n")
    with pytest.raises(DataError, match=rf"line 1: column {missing} is missing; expected"):
        load_dataset(name, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sentence\tlabel\nfine\t1\nodd\t-1\n",
            r"line 3: unknown label '-1'; expected one of negative, posi",
        ),
        ("sentence\tlabel\n \t1\n", r"line 2: column 'sentence' is empty"),
        ("sentence,label\nfine,1\n", r"line 1: column 'sentence', 'label' is missing"),
        ("sentence\tlabel\nfine\n", r"line 2: has no value for column 'label'"),
    ],
    ids=["unknown label", "empty text", "commas in a .tsv file", "short line"],
)
def test_bad_sst2_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.tsv", text)
    with pytest.raises(DataError, match=r"bad\.tsv, " + message):
        load_dataset("sst2", path)


@pytest.mark.parametrize("name", ["sst2", "healthfc", "ecqa"])
def test_what_is_not_utf_8_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "latin.tsv"
    path.write_bytes("sentence\tlabel\ncaf\xe9\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.tsv: cannot be read as a UTF-8"):
        load_dataset(name, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: not JSON"),
        ('{"name": "x",\n oops}', r"line 2: not JSON"),
        ("[]", r"not a relation as LRE publishes them"),
        (json.dumps({"name": "x", "samples": []}), r"'prompt_templates'.*expected an object with name"),
        (json.dumps(relation(prompt_templates=[])), r"not a relation"),
        (json.dumps(relation(prompt_templates=["{} and {}"])), r"must hold '\{\}' once"),
        (json.dumps(relation(samples=[])), r"holds no samples"),
        (json.dumps(relation(samples=[{"subject": "a"}])), r"sample 1 has no 'object'"),
        (json.dumps(relation(samples=[{"subject": " ", "object": "a"}])), r"sample 1 has an empty subject"),
    ],
    ids=["empty", "broken", "list", "no templates", "none", "two slots", "no samples", "no object", "blank"],
)
def test_bad_relation_is_refused_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.json", text)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("lre", path)
    assert str(path) in str(caught.value)


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or directory"):
        load_dataset("esnli", tmp_path / "missing.csv")
    with pytest.raises(DataError, match="cannot be read as a UTF-8 CSV file"):
        load_dataset("esnli", tmp_path)
    with pytest.raises(DataError, match=r"holds no \.json file"):
        load_dataset("lre", tmp_path)
    (tmp_path / "latin.csv").write_bytes("premise,hypothesis,label,explanation\ncafé".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        load_dataset("esnli", tmp_path / "latin.csv")
    for name in "ab":
        write(tmp_path / f"{name}.json", json.dumps(relation()))
    with pytest.raises(DataError, match=r"relation 'some relation' is already in .*a\.json"):
        load_dataset("lre", tmp_path)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="built in"):
        load_dataset("news", tmp_path)
    with pytest.raises(DataError, match="not both"):
        load_dataset("esnli", tmp_path, revision="abc")
    with pytest.raises(UnknownName, match="Did you mean 'news'"):
        load_dataset("nwes")


def test_names_have_descriptions() -> None:
    names = dataset_names()
    assert set(names) == {*BUILT_IN, "esnli", "ag_news", "sst2", "healthfc", "ecqa", "lre", "twohopfact"}
    for name in BUILT_IN:
        assert names[name].startswith(str(len(load_dataset(name).items)))
    assert all("\n" not in text for text in names.values())


def test_the_documentation_lists_every_set_with_its_task_and_size() -> None:
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", text.partition("\n## Data\n")[2], re.MULTILINE)
    assert {name: task for name, task, _ in rows} == dataset_tasks()
    for name, _, third in rows:
        assert name not in BUILT_IN or int(third) == len(load_dataset(name).items)


def test_a_data_set_is_closed() -> None:
    with pytest.raises(ValueError, match="extra"):
        Dataset.model_validate({**load_dataset("news").model_dump(), "other": 1})
