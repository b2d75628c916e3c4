"""From a run to stimuli: what is drawn, what is taken out of the texts, what is refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_support import make_run_of_texts

from quantxai.errors import InputError, UnknownName
from quantxai.store import Store
from userstudy.blinding import blinded, names_pattern
from userstudy.material import Stratum, allocate, draw_material
from userstudy.reading import READERS
from userstudy.settings import StudySettings

RELATIONS = ("entailment", "neutral", "contradiction")
NAMES = names_pattern(["smollm2-135m", "full", "gptq-3", "acme/Condor-7B-Chat"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four variants, one of them a control."""
    return make_run_of_texts(tmp_path_factory.mktemp("material") / "sweep")


def _settings(**design: Any) -> StudySettings:
    questions = [{"id": "good", "kind": "likert", "text": "Good?"}]
    texts = {"title": "t", "consent": "c", "instructions": "i"}
    return StudySettings.model_validate(
        {"name": "n", "questions": questions, "texts": texts, "design": {"items": 99, **design}}
    )


# Drawing


def test_only_items_with_a_text_of_every_variant_are_drawn(run: Path) -> None:
    material = draw_material(Store.open(run), _settings(explainers=["counterfactual"]))
    assert {s.item for s in material.stimuli} == {f"edits/news/news/{n}" for n in range(4, 10)}
    assert material.origin.left_out == {"gptq-3": 1, "nf4": 3}
    assert (material.origin.drawn, material.origin.eligible, material.origin.run) == (6, 6, "sweep")
    assert list(dict.fromkeys(s.variant for s in material.stimuli)) == ["full", "gptq-3", "nf4"]
    fewer = draw_material(Store.open(run), _settings(explainers=["edits"], variants=["gptq-3"]))
    assert fewer.origin.drawn == 9
    with_control = draw_material(Store.open(run), _settings(explainers=["edits"], variants=["rerun"]))
    assert with_control.origin.left_out == {"rerun": 1}


def test_a_stimulus_holds_what_a_reader_needs(run: Path) -> None:
    material = draw_material(Store.open(run), _settings())
    by_cell = {(s.item, s.variant): s for s in material.stimuli}
    edit = by_cell["edits/news/news/4", "nf4"]
    assert [(p.name, p.text) for p in edit.parts] == [
        ("original", "Text 4."), ("edited", "Edit 4 by someone."), ("target", "sports")
    ]  # fmt: skip
    assert edit.removed == ("edited: tag: </edit>",)
    assert (edit.label, edit.outcome, edit.answer, edit.labels) == (
        "world",
        "correct",
        "sports",
        ("world", "sports"),
    )
    assert by_cell["edits/news/news/6", "full"].outcome == "wrong"
    explanation = by_cell["natural_language/inference/pair-1", "nf4"]
    assert [(p.name, p.text) for p in explanation.parts] == [
        ("premise", "It rains 1."), ("hypothesis", "It is wet."), ("label", "entailment"),
        ("explanation", "Rain, says […] 1."),
    ]  # fmt: skip
    assert (explanation.label, explanation.outcome, explanation.answer) == ("neutral", "wrong", "entailment")
    # full and gptq-3 make the same edits; of the explanations, gptq-3's and nf4's differed by their names.
    assert material.same == 12


def test_ids_say_nothing_and_all_else_follows_from_the_seed(run: Path) -> None:
    store = Store.open(run)
    first, again, other = (draw_material(store, _settings(items=6, seed=seed)).stimuli for seed in (1, 1, 2))
    assert all(re.fullmatch("[0-9a-f]{12}", s.id) for s in first)
    assert not {s.id for s in first} & {s.id for s in again}
    plain = [[s.model_copy(update={"id": ""}) for s in drawn] for drawn in (first, again, other)]
    assert plain[0] == plain[1]
    assert plain[0] != plain[2]


def test_every_stratum_is_drawn_in_proportion(run: Path) -> None:
    material = draw_material(Store.open(run), _settings(items=8))
    counted = Counter(
        (s.explainer, s.dataset, s.label, s.outcome) for s in material.stimuli if s.variant == "full"
    )
    assert counted == {stratum: taken for stratum, (taken, _) in material.strata.items()}
    assert min(counted.values()) >= 1
    assert sum(counted.values()) == 8


def _stratum(label: str) -> Stratum:
    return Stratum("e", "d", label, "correct")


def test_allocation_worked_by_hand() -> None:
    sizes = {_stratum("a"): 60, _stratum("b"): 30, _stratum("c"): 9, _stratum("d"): 1}
    # One each; then by the quotients of a: 20, 12, 8.6, 6.7, 5.5 and of b: 10, 6, 4.3: a a b a a b.
    assert list(allocate(sizes, 10).values()) == [5, 3, 1, 1]
    assert list(allocate(sizes, 100).values()) == [60, 30, 9, 1]
    assert list(allocate(sizes, 500).values()) == [60, 30, 9, 1]
    assert list(allocate(sizes, 2).values()) == [1, 1, 0, 0]


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), wanted=st.integers(1, 200))
def test_allocation_is_within_bounds(sizes: list[int], wanted: int) -> None:
    found = allocate({_stratum(str(n)): size for n, size in enumerate(sizes)}, wanted)
    assert sum(found.values()) == min(wanted, sum(sizes))
    assert all(0 <= found[_stratum(str(n))] <= size for n, size in enumerate(sizes))
    if wanted >= len(sizes):
        assert all(found.values())


def test_what_cannot_be_drawn_is_refused(run: Path) -> None:
    store = Store.open(run)
    with pytest.raises(UnknownName, match=r"unknown variant of the run 'gptq-4'.*'gptq-3'"):
        draw_material(store, _settings(variants=["gptq-4"]))
    with pytest.raises(InputError, match="at least one other variant"):
        draw_material(store, _settings(variants=["full"]))
    with pytest.raises(InputError, match="no texts of memorization to be rated"):
        draw_material(store, _settings(explainers=["memorization"]))


# Reading rows


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        ("verification", "Claim: A.\nEvidence: B.", [("claim", "A."), ("evidence", "B.")]),
        (
            "inference",
            "Premise: A\nand more.\nHypothesis: B.",
            [("text", "Premise: A\nand more.\nHypothesis: B.")],
        ),
        ("choice", "Which?\nA: one\nB: two", [("question", "Which?"), ("choices", "A: one\nB: two")]),
        ("choice", "Which?", [("text", "Which?")]),
        ("topic", "Claim: it is news.", [("text", "Claim: it is news.")]),
    ],
)
def test_an_items_text_is_taken_apart(task: str, text: str, expected: list[tuple[str, str]]) -> None:
    told = READERS["natural_language"]({"text": text, "explanation": "So.", "predicted": "yes"}, task)
    assert told is not None
    assert [(part.name, part.text) for part in told.before] == [*expected, ("label", "yes")]


@pytest.mark.parametrize(("part", "stays"), [("hypothesis", "premise"), ("premise", "hypothesis")])
def test_the_part_that_stays_is_named(part: str, stays: str) -> None:
    row = {"part": part, "context": "It rains.", "original": "a", "edited": "b", "target": "neutral"}
    told = READERS["counterfactual"](
        {**row, "labels": RELATIONS, "edited_scores": [-2.0, -3.0, -1.0], "predicted": "entailment"},
        "inference",
    )
    assert told is not None
    assert [(p.name, p.text) for p in told.before] == [(stays, "It rains."), ("original", "a")]
    assert told.answer == "contradiction"


# Blinding


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        ("The dog runs.</edit>", "The dog runs.", ["tag: </edit>"]),
        ("A team.</>", "A team.", ["tag: </>"]),
        ("It stops.</ TALK> Yes", "It stops. Yes", ["tag: </ TALK>"]),
        ("cut off </edi", "cut off", ["tag: </edi"]),
        ("a <b>bold</b> word", "a bold word", ["tag: <b>", "tag: </b>"]),
        ("<<edit>edit>x", "< edit>x", ["tag: <edit>"]),
        ("<|im_end|>\n<|im_start|>assistant: yes", "yes",
         ["special token: <|im_end|>", "special token: <|im_start|>", "chat marker: assistant:"]),
        ("[INST] a [/INST]</s>", "a", ["special token: </s>", "special token: [INST]", "special token: [/INST]"]),
        ("▁so▁it", "so it", ["special token: ▁"]),
        ("```text\nyes\n```", "yes", ["code fence: ```text", "code fence: ```"]),
        ("I am SmolLM2 135M.", "I am […].", ["name: SmolLM2 135M"]),
        ("Condor 7B says; a condor flies", "[…] says; a condor flies", ["name: Condor 7B"]),
        ("GPTQ-3, GPT-4 or Qwen2.5", "[…], […] or […]", ["name: GPTQ-3", "name: GPT-4", "name: Qwen2.5"]),
        ("Condor chat, gptq-3 3", "[…], […] 3", ["name: Condor chat", "name: gptq-3"]),
        ("int8 or NF4", "[…] or […]", ["name: int8", "name: NF4"]),
        ("a\u202eb\u200b\x07\ue000", "ab", [f"character: U+{c}" for c in ("202E", "200B", "0007", "E000")]),
        ("half \ud800 pair", "half pair", ["character: U+D800"]),
        (" two  spaces\r\n\r\n\r\n\r\nand\tlines ", "two spaces\n\nand lines", []),
    ],
)  # fmt: skip
def test_what_gives_away_is_taken_out_and_listed(text: str, expected: str, removed: list[str]) -> None:
    assert blinded(text, NAMES) == (expected, tuple(removed))


@pytest.mark.parametrize(
    "text",
    [
        "if x < y and y > z then 3<4", "I <3 you", "Claude Monet painted a llama, a falcon and a full moon.",
        "A 4-bit colour, an opt-out, the phi coefficient.", "می‌خواهم", "👩‍👩‍👧 family", "Ġimgħa is a Friday.",
        "e.g. a/b, [a] and {b}", "The system: a pump.",
    ],
)  # fmt: skip
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert blinded(text, NAMES) == (text, ())


def test_a_name_all_variants_were_given_stays() -> None:
    assert blinded("Qwen2 is out.", NAMES, given="Alibaba releases Qwen2 today").text == "Qwen2 is out."
    assert blinded("Qwen2 is out.", NAMES, given="Alibaba releases a model").text == "[…] is out."
    assert blinded("Qwen2 <b>is</b> out.\u202e").text == "Qwen2 <b>is</b> out."


@given(st.text(st.sampled_from("ab <>/|[]:\u202e\n▁`" + "GPTQ4edits"), max_size=40))
def test_blinding_twice_changes_nothing_more(text: str) -> None:
    once = blinded(text, NAMES)
    assert blinded(once.text, NAMES) == (once.text, ())
    once.text.encode()
