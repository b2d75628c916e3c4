"""Whether a study was analysed as planned before its first participant."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_support import make_study

from userstudy.analysis_plan import keep_plan, plan_status
from userstudy.database.engine import open_database
from userstudy.sessions import Sessions
from userstudy.study import Study


def edited(study: Study, old: str, new: str) -> Study:
    file = study.path / "study.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return Study.open(study.path)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "study", analysis={"margin": 0.5}, exclusion={"min_seconds_per_page": 2.0})


def test_kept_once_and_followed(study: Study) -> None:
    engine = open_database(study)
    plan = keep_plan(study, engine)
    assert plan is not None
    assert keep_plan(study, engine) is None
    status = plan_status(Study.open(study.path))
    assert status.planned
    assert status.sentence == (
        "Questions, rules of exclusion and analysis were fixed before the first participant "
        f"(plan {plan.digest[:12]}, written {plan.created})."
    )


def test_changed_before_anybody_came_it_is_written_anew(study: Study) -> None:
    engine = open_database(study)
    first = keep_plan(study, engine)
    second = keep_plan(changed := edited(study, "margin = 0.5", "margin = 0.4"), engine)
    assert first is not None
    assert second is not None
    assert (first.analysis.margin, second.analysis.margin) == (0.5, 0.4)
    assert plan_status(changed).planned


def test_changed_after_somebody_came_the_report_can_tell(study: Study) -> None:
    engine = open_database(study)
    keep_plan(study, engine)
    Sessions(study, engine).enrol("en", "desktop", None)
    changed = edited(study, "margin = 0.5", "margin = 0.4")
    changed = edited(changed, "min_seconds_per_page = 2.0", "min_seconds_per_page = 9.0")
    name = study.settings.questions[0].id
    changed = edited(changed, f'id = "{name}"', 'id = "another"')
    assert keep_plan(changed, engine) is None
    status = plan_status(changed)
    assert not status.planned
    assert status.sentence.endswith(
        f"question {name} left out; question another added; "
        "exclusion.min_seconds_per_page changed from 2.0 to 9.0; analysis.margin changed from 0.5 to 0.4."
    )


def test_simulated_raters_are_nobody(study: Study) -> None:
    engine = open_database(study)
    Sessions(study, engine).enrol("en", "desktop", None, kind="simulated")
    assert keep_plan(study, engine) is not None


def test_without_one_or_with_one_that_was_edited(study: Study) -> None:
    assert plan_status(study).sentence == (
        "Exploratory: no analysis plan was kept before the first participant."
    )
    keep_plan(study, open_database(study))
    file = study.path / "analysis-plan.json"
    file.write_text(
        file.read_text().replace('"margin":0.5', '"margin":0.1').replace('"margin": 0.5', '"margin": 0.1')
    )
    assert "changed after it was written" in plan_status(study).sentence
    file.write_text("{")
    assert plan_status(study).sentence == "Exploratory: analysis-plan.json cannot be read."
