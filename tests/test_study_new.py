"""`quantxai study new` and `draw`: a study directory from a run, and what a change of study.toml asks for."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from study_support import SETTINGS, make_run_of_texts, make_stimuli
from typer.testing import CliRunner, Result

from quantxai.cli import app
from quantxai.errors import ConfigError, InputError, UnknownName
from userstudy.creation import minutes, new_study, redraw
from userstudy.presets import preset, presets, study_toml, unfilled
from userstudy.records import Design, Form, Part, Planned
from userstudy.settings import StudySettings
from userstudy.study import Study


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four variants, one of them a control."""
    return make_run_of_texts(tmp_path_factory.mktemp("new") / "sweep")


@pytest.fixture(scope="module")
def drawn(run: Path) -> Path:
    """Drawn from it."""
    out = run.parent / "study"
    new_study(run, out, "counterfactual", items=4, participants=9, seed=3)
    return out


@pytest.fixture
def study(drawn: Path, tmp_path: Path) -> Study:
    """A copy of it to change."""
    return Study.open(shutil.copytree(drawn, tmp_path / "study"))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `quantxai study` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["study", *(str(a) for a in arguments)])


def _change(study: Study, old: str, new: str) -> None:
    file = study.path / "study.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


# Presets


def test_the_command_names_the_presets_there_are() -> None:
    shown = " ".join(CliRunner().invoke(app, ["study", "new", "--help"]).output.split())
    assert list(presets()) == ["counterfactual", "explanation", "pairwise", "simulatability"]
    assert "counterfactual, explanation, pairwise or simulatability" in shown
    with pytest.raises(UnknownName, match="Did you mean 'pairwise'"):
        preset("pairwise2")


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_a_study_with_every_text_in_both_languages(name: str) -> None:
    settings = StudySettings.model_validate({**preset(name), "name": "x"})
    assert StudySettings.model_validate(tomllib.loads(study_toml(settings))) == settings
    words = [settings.texts.model_dump()[key] for key in type(settings.texts).model_fields]
    words += [text for q in settings.questions for text in (q.text, q.help, q.low, q.high) if text]
    words += [text for check in settings.check for text in (check.question, *check.options)]
    assert all(set(text) == {"en", "de"} and all(text.values()) for text in words)
    assert 2 <= len(settings.check) <= 3
    assert unfilled(settings) == [
        "texts.consent.en",
        "texts.consent.de",
        "texts.contact.en",
        "texts.contact.de",
    ]


def test_the_questions_are_those_announced() -> None:
    found = {name: [question["id"] for question in preset(name)["questions"]] for name in presets()}
    assert found == {
        "counterfactual": ["understandability", "coherence", "plausibility", "minimality", "overall"],
        "explanation": ["understandability", "coherence", "sufficiency", "trustworthiness", "overall"],
        "pairwise": ["better"],
        "simulatability": ["guess"],
    }


def test_study_toml_explains_every_key_and_keeps_any_text() -> None:
    text = 'a "quoted" \\ back\\slash\n"""three""" and a tab\t\n\nend "'
    changed = {**SETTINGS, "texts": {**SETTINGS["texts"], "consent": {"en": text, "pt-BR": text, "x y": "z"}}}
    settings = StudySettings.model_validate(changed)
    written = study_toml(settings)
    assert StudySettings.model_validate(tomllib.loads(written)) == settings
    for table in (
        StudySettings,
        *(type(getattr(settings, key)) for key in ("design", "recruitment", "analysis")),
    ):
        for name, field in table.model_fields.items():
            assert name in written
            assert field.description or name in ("check", "questions", "texts", *tomllib.loads(written))


# A new study


def test_a_study_is_complete_without_its_run(study: Study) -> None:
    assert sorted(file.name for file in study.path.iterdir()) == [
        "design.json", "findings.parquet", "material.json", "measurements.parquet", "origin.json", "study.toml",
    ]  # fmt: skip
    design = study.settings.design
    assert (design.items, design.seed, design.variants) == (4, 3, ("full", "gptq-3", "nf4"))
    assert study.settings.recruitment.participants == 9
    assert "{minutes}" not in (study.path / "study.toml").read_text(encoding="utf-8")
    measured = pd.read_parquet(study.path / "measurements.parquet")
    names = measured["explainer"] + "/" + measured["dataset"] + "/" + measured["item"]
    assert set(zip(names, measured["variant"], strict=True)) == {
        (s.item, s.variant) for s in study.stimuli.values()
    }
    findings = pd.read_parquet(study.path / "findings.parquet")
    assert findings[["variant", "explainer"]].to_numpy().tolist() == [["nf4", "edits"]]


def test_new_says_what_was_drawn_and_left_out(run: Path, call: Callable[..., Result]) -> None:
    result = call("new", run, "--out", "s", "--participants", 10, "--variants", "nf4, gptq-3")
    said = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "edits news world correct 2 2" in said
    assert "6 source items drawn of 6 for which every variant has a text." in said
    assert "wrote nothing that could be used: gptq-3 1, nf4 3. So only successes are rated" in said
    assert "latin square, 3 forms" in said
    # 10 participants, 6 items, 3 variants: 10 / 3 of each cell, 20 of each variant.
    assert "ratings 3.3 of each item with each variant, 20 of each variant" in said
    assert "10 participants do not divide by 3 forms" in said
    assert "Fill in what is marked [FILL IN: ...]" in said
    assert "quantxai study power s" in said


def test_new_prints_json(run: Path, call: Callable[..., Result]) -> None:
    facts = json.loads(call("new", run, "--out", "s", "--preset", "pairwise", "--json").output)
    assert facts["variants"] == ["full", "gptq-3", "nf4"]
    assert facts["forms"] == 2
    assert facts["origin"]["drawn"] == 6
    assert sum(stratum["drawn"] for stratum in facts["strata"]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "counterfact"], "unknown preset 'counterfact'. Did you mean 'counterfactual'?"),
        (["--variants", "gptq-33"], "unknown variant of the run 'gptq-33'. Did you mean 'gptq-3'?"),
        (["--items", "3", "--per-participant", "2"], "leaves room for 1 with 2 items"),
    ],
)
def test_new_refuses_and_leaves_nothing_behind(
    run: Path, call: Callable[..., Result], arguments: list[str], message: str
) -> None:
    result = call("new", run, "--out", "s", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not Path("s").exists()


def test_new_overwrites_nothing(run: Path, study: Study, tmp_path: Path, call: Callable[..., Result]) -> None:
    before = {file: file.read_bytes() for file in study.path.iterdir()}
    result = call("new", run, "--out", study.path)
    assert result.exit_code == 2
    assert "is a study already" in result.output
    assert {file: file.read_bytes() for file in study.path.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert "holds something else" in call("new", run, "--out", "other").output
    assert "is not a run directory" in call("new", "other", "--out", "s").output


def test_minutes_worked_by_hand() -> None:
    part = Part(name="text", text="word " * 118)
    stimuli = [s.model_copy(update={"parts": (part,)}) for s in make_stimuli(8, ("full",))]
    form = Form(id=0, trials=tuple(Planned(kind="rating", stimuli=(s.id,)) for s in stimuli))
    design = Design(seed=0, kind="latin-square", variants=("full",), reference="full", forms=(form,))
    texts = {"title": "t", "consent": "four words of consent", "instructions": "four of instructions here"}
    questions = [{"id": "good", "kind": "likert", "text": "Good?"}]
    settings = StudySettings.model_validate({"name": "n", "questions": questions, "texts": texts})
    # 8 pages of 118 words and 8 around them: 952 words at 238 a minute are 4 minutes; 8 answers of 6
    # and 8 pages of 3 seconds are 72 seconds: 5.2 minutes.
    assert minutes(stimuli, design, settings) == 5


# A study drawn again


def test_questions_and_texts_need_no_new_draw(study: Study) -> None:
    _change(study, 'id = "overall"', 'id = "quality"')
    with pytest.raises(
        ConfigError, match=r"analysis.confirmatory: no such question that has numbers: overall"
    ):
        Study.open(study.path)
    _change(study, 'confirmatory = ["overall"]', 'confirmatory = ["quality"]')
    _change(study, 'id = "understandability"\nkind = "likert"', 'id = "clarity"\nkind = "likert"\npoints = 5')
    opened = Study.open(study.path)
    assert opened.digest == study.digest
    assert {check.question for check in opened.design.attention} <= {
        question.id for question in opened.settings.questions
    }


def test_a_design_key_asks_for_a_new_draw_which_keeps_the_texts(study: Study) -> None:
    _change(study, "repeats = 2", "repeats = 1")
    with pytest.raises(ConfigError, match=r"design.repeats has changed.*quantxai study draw"):
        Study.open(study.path)
    again = redraw(study.path).study
    assert again.stimuli == study.stimuli
    assert [t.kind for t in again.design.forms[0].trials].count("repeat") == 1
    assert Study.open(study.path).changed_since_drawn() == []


def test_what_decides_the_texts_asks_for_the_run(
    run: Path, study: Study, call: Callable[..., Result]
) -> None:
    _change(study, "items = 4", "items = 5")
    refused = call("draw", study.path)
    assert refused.exit_code == 2
    assert "design.items has changed" in refused.output
    assert "'sweep'" in refused.output
    result = call("draw", study.path, "--run", run)
    assert "5 source items drawn" in result.output
    assert len({s.item for s in Study.open(study.path).stimuli.values()}) == 5


def test_a_draw_can_follow_when_no_question_takes_checks(study: Study) -> None:
    text = (study.path / "study.toml").read_text(encoding="utf-8").replace('kind = "likert"', 'kind = "text"')
    text = text.replace('confirmatory = ["overall"]', "confirmatory = []")
    (study.path / "study.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no question is left"):
        Study.open(study.path)
    _change(study, "attention_checks = 2", "attention_checks = 0")
    assert redraw(study.path).study.design.attention == ()


def test_nothing_is_drawn_once_somebody_takes_part(study: Study) -> None:
    _change(study, "repeats = 2", "repeats = 1")
    before = (study.path / "design.json").read_bytes()
    with sqlite3.connect(study.path / "study.sqlite") as database:
        database.execute("CREATE TABLE participants (kind TEXT)")
        database.execute("INSERT INTO participants VALUES ('preview'), ('human'), ('human')")
    database.close()
    with pytest.raises(InputError, match="2 people take part"):
        redraw(study.path)
    assert (study.path / "design.json").read_bytes() == before
    with sqlite3.connect(study.path / "study.sqlite") as database:
        database.execute("UPDATE participants SET kind = 'simulated'")
    database.close()
    with pytest.raises(InputError, match=r"holds the answers of 3 simulated.*Move it away"):
        redraw(study.path)
    (study.path / "study.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="cannot be read, so nothing was drawn"):
        redraw(study.path)


def test_a_database_of_previews_goes_with_the_design_it_belongs_to(study: Study) -> None:
    _change(study, "repeats = 2", "repeats = 1")
    with sqlite3.connect(study.path / "study.sqlite") as database:
        database.execute("CREATE TABLE participants (kind TEXT)")
        database.execute("INSERT INTO participants VALUES ('preview')")
    database.close()
    redraw(study.path)
    assert not (study.path / "study.sqlite").exists()
