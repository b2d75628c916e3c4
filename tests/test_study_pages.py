"""What pages show, and what they never say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from pydantic import BaseModel  # noqa: E402
from study_contract import World, answer_page, open_quickly, refused  # noqa: E402
from study_support import make_study  # noqa: E402

from userstudy.pages import Page, Pages, View  # noqa: E402
from userstudy.study import Study  # noqa: E402

PAIR: dict[str, Any] = {
    "questions": [
        {"id": "better", "kind": "pairwise", "text": {"en": "Which is better?", "de": "Was ist besser?"}}
    ],
    "design": {"show": "pair", "repeats": 0},
}
LABEL: dict[str, Any] = {
    "questions": [{"id": "guess", "kind": "label", "text": "What does the model say?"}],
}


def _pages(study: Study, language: str = "en") -> dict[str, list[Page]]:
    """Every page of every form, by the kind it never tells."""
    pages = Pages(study)
    found: dict[str, list[Page]] = {}
    for form in study.design.forms:
        for trial in form.trials:
            found.setdefault(trial.kind, []).append(pages.page(trial.stimuli, {}, language))
    return found


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield name
            yield from _leaves(getattr(value, name))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(key)
            yield from _leaves(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield str(value)


def test_no_field_says_which_variant_explainer_or_kind(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    engine = open_quickly(study)
    world = World(study, engine)
    tokens = [world.sessions.enrol("en", "desktop")]
    views: list[View] = [world.sessions.view(tokens[0]), world.sessions.start_check(tokens[0])]
    tokens += [world.rating() for _ in study.design.forms]
    for token in tokens[1:]:
        for position in range(world.sessions.view(token).pages):
            views.append(world.sessions.view(token))
            answer_page(world.sessions, token, position)
            if position + 1 < views[-1].pages:
                world.sessions.turn(token, position, position + 1, 1.0)
        views.append(world.sessions.finish(token))
    engine.dispose()
    stimuli = study.stimuli.values()
    secrets = {"repeat", "attention", "stimulus", "stimuli", "variant", "form", "seed", "kind"}
    secrets |= {s.variant for s in stimuli} | {s.explainer for s in stimuli} | {s.item for s in stimuli}
    secrets |= {s.group for s in stimuli} | {check.id for check in study.design.attention}
    ids = {s.id for s in stimuli}
    for view in views:
        said = list(_leaves(view))
        assert not secrets & set(said)
        # The made-up texts end in their own stimulus's id; nowhere else is one.
        assert not ids & set(said)
        assert view.model_fields_set <= set(View.model_fields)
    assert {view.stage for view in views} == {"instructions", "check", "rating", "debrief"}


@pytest.mark.parametrize("changes", [{}, PAIR, LABEL], ids=["scale", "pair", "label"])
def test_a_check_of_attention_looks_like_any_other_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = _pages(make_study(tmp_path / "study", **changes))
    [check, *_] = found["attention"]
    shapes = {
        (len(page.parts), tuple(part.name for part in page.parts[0]), page.labels, page.questions)
        for page in found["rating"]
    }
    assert (len(check.parts), tuple(p.name for p in check.parts[0]), check.labels, check.questions) in shapes


def test_what_a_check_of_attention_says(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    [check] = study.design.attention
    question = study.settings.question(check.question)
    for language, said in (("en", "Is the text understandable?"), ("de", "Ist der Text verständlich?")):
        [page, *_] = _pages(study, language)["attention"]
        parts = {part.name: part.text for part in page.parts[0]}
        assert said in parts[check.part]
        assert check.answer in parts[check.part]
        original = {part.name: part.text for part in study.stimuli[check.stimulus].parts}
        assert {name for name in original if original[name] != parts[name]} == {check.part}
    assert question.kind == "likert"


def test_a_pair_s_check_names_the_side_as_the_page_does(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", **PAIR)
    [check] = study.design.attention
    [page, *_] = _pages(study, "de")["attention"]
    side = {"left": "Text A", "right": "Text B"}[check.answer]
    assert all(any(side in part.text for part in parts) for parts in page.parts)
    assert len(page.parts) == 2


def test_what_is_to_be_guessed_is_not_shown(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", **LABEL)
    for page in (page for pages in _pages(study).values() for page in pages):
        assert not {"label", "target"} & {part.name for parts in page.parts for part in parts}
        assert page.labels == ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("changes", "right", "wrong"),
    [(LABEL, "neutral", "full"), (PAIR, "same", "reference")],
    ids=["label", "pair"],
)
def test_labels_and_sides_are_checked(
    tmp_path: Path, changes: dict[str, Any], right: str, wrong: str
) -> None:
    study = make_study(tmp_path / "study", **changes)
    engine = open_quickly(study)
    sessions = World(study, engine).sessions
    token, question = World(study, engine).rating(), study.settings.questions[0].id
    for value in (wrong, right.upper(), "1"):
        refused("invalid_answer", lambda value=value: sessions.answer(token, 0, question, value, "w"))
    sessions.answer(token, 0, question, right, "k")
    page = sessions.view(token).page
    assert page is not None
    assert page.answers == {question: right}
    engine.dispose()


def test_a_label_question_is_not_asked_about_what_has_no_labels(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", **LABEL | {"design": {"attention_checks": 0, "repeats": 0}})
    material = json.loads((study.path / "material.json").read_text())
    (study.path / "material.json").write_text(json.dumps([{**entry, "labels": []} for entry in material]))
    pages = Pages(Study.open(study.path))
    trial = study.design.forms[0].trials[0]
    assert pages.page(trial.stimuli, {}, "en").questions == ()
    assert pages.complete(trial.stimuli, {})
