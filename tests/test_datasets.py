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
from quantxai.datasets import Dataset, calibration_texts, dataset_names, load_dataset, take, two_hop
from quantxai.errors import DataError, MissingExtra, UnknownName
from quantxai.records import Item

pytestmark = pytest.mark.bare

BUILT_IN = ("news", "inference", "relations", "reviews", "claims", "questions")


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
    questions = two_hop()
    assert len(questions) >= 150
    assert len({q.id for q in questions}) == len(questions)
    eiffel = next(q for q in questions if "Eiffel" in q.text and "capital" in q.text)
    assert eiffel.text == "The capital city of the country that is home to the Eiffel Tower is"
    assert (eiffel.label, eiffel.fields["bridge"], eiffel.fields["subject"]) == (
        "Paris",
        "France",
        "the Eiffel Tower",
    )
    assert eiffel.fields["second_prompt"] == "The capital city of France is"
    facts = {(i.text, i.label) for i in load_dataset("relations").items}
    for question in questions:
        assert (question.fields["subject"], question.fields["bridge"]) in facts
        assert (question.fields["bridge"], question.label) in facts
        assert question.fields["bridge"] not in question.text, "the question gives the bridge away"
        assert question.fields["description"] in question.text


# -- calibration ---------------------------------------------------------------------------------


def test_calibration_mixes_all_built_in_sets_in_a_seeded_order() -> None:
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
        counts = Counter(i.group if dataset.task == "recall" else i.label for i in sample.items)
        strata = 27 if name == "relations" else len(dataset.labels)
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


def test_lre_needs_a_path() -> None:
    with pytest.raises(DataError, match=r"path.*evandez/relations"):
        load_dataset("lre")


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
    ("text", "message"),
    [
        ("", r"line 1: not JSON"),
        ('{"name": "x",\n oops}', r"line 2: not JSON"),
        ("[]", r"not a relation as LRE publishes them"),
        (json.dumps({"name": "x", "samples": []}), r"'prompt_templates'.*expected an object with name"),
        (json.dumps(relation(prompt_templates=[])), r"not a relation"),
        (json.dumps(relation(prompt_templates=["no subject"])), r"must hold '\{\}' once"),
        (json.dumps(relation(samples=[])), r"holds no samples"),
        (json.dumps(relation(samples=[{"subject": "a"}])), r"KeyError: 'object'"),
        (json.dumps(relation(samples=[{"subject": "a", "object": " "}])), r"sample 1 has an empty"),
    ],
    ids=["empty", "broken", "list", "no templates", "none", "no slot", "no samples", "no object", "blank"],
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
    assert set(names) == {*BUILT_IN, "esnli", "ag_news", "sst2", "healthfc", "ecqa", "lre"}
    for name in BUILT_IN:
        assert names[name].startswith(str(len(load_dataset(name).items)))
    assert all("\n" not in text for text in names.values())


def test_a_data_set_is_closed() -> None:
    with pytest.raises(ValueError, match="extra"):
        Dataset.model_validate({**load_dataset("news").model_dump(), "other": 1})
