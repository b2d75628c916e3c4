"""The datasheet: in the form's own format, filled in from the study, and open about the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_results import made_up, people
from study_support import make_study

from userstudy import heds
from userstudy.report.flow import flow
from userstudy.study import Study

ONLY_RESEARCHERS = {
    "1.1.1", "1.2", "1.3.1.1", "1.3.1.2", "1.3.1.3", "1.3.2.1", "1.3.2.2", "1.3.2.3", "2.4", "2.5", "3.1.3.1",
    "3.1.3.2", "3.1.3.3", "3.2.2.1", "3.2.2.2", "3.2.2.3", "3.2.2.4", "3.2.3", "3.3.1", "3.3.4.1", "4.1.1", "4.1.2",
    "4.1.3", "4.3.1.2", "5.1", "5.2", "5.3", "5.4",
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("heds") / "study")


@pytest.fixture(scope="module")
def sheet(study: Study) -> heds.Datasheet:
    analysis = made_up(study)
    return heds.datasheet(study, analysis, flow(people(), analysis))


def test_the_list_of_questions() -> None:
    """As the paper (arXiv 2412.07940) names the ends of its sections."""
    numbers = [question.number for question in heds.QUESTIONS]
    assert len(numbers) == len(set(numbers)) == len({question.field for question in heds.QUESTIONS}) == 62
    ends = {section: [n for n in numbers if n.startswith(f"{section}.")] for section in heds.SECTIONS}
    assert {section: (own[0], own[-1]) for section, own in ends.items()} == {
        "1": ("1.1.1", "1.3.2.3"), "2": ("2.1", "2.5"), "3": ("3.1.1", "3.3.8"), "4": ("4.1.1", "4.3.12.2"),
        "5": ("5.1", "5.4"),
    }  # fmt: skip


def test_only_the_researchers_can_answer_the_rest(sheet: heds.Datasheet) -> None:
    assert set(sheet.open()) == ONLY_RESEARCHERS
    asked = {question.number for question in heds.QUESTIONS}
    assert set(sheet.experiment) <= asked
    assert all(set(answers) <= asked for answers in sheet.criteria.values())


def test_answers_come_from_the_study(sheet: heds.Datasheet) -> None:
    assert sheet.experiment["3.2.1"] == "12"
    training = str(sheet.experiment["3.2.4"])
    assert "Read, then answer." in training
    assert "a comprehension check of 1 question (2 tries)" in training
    assert "1 page among the others says in the text" in str(sheet.experiment["3.3.3.2"])
    scale = sheet.criteria["understandability"]
    assert scale["4.3.3"] == "7"
    assert scale["4.3.4"] == "1, 2, 3, 4, 5, 6, 7 (a scale of 7 points, 1 = not at all, 7 = completely)"
    assert scale["4.3.7"] == "Is the text understandable?"
    assert scale["4.3.11.2"] == "0.31 [0.20, 0.40]"
    assert scale["4.3.12.2"] == "IntraAA not assessed"
    assert sheet.criteria["overall"]["4.3.12.2"] == "0.70 [0.50, 0.80]"
    assert sheet.criteria["remark"]["4.3.3"] == "N/A"


def test_what_is_compared_side_by_side_is_relative(tmp_path: Path) -> None:
    asked = [
        {"id": "better", "kind": "pairwise", "text": "Which?"},
        {"id": "why", "kind": "text", "text": "Why?"},
    ]
    study = make_study(tmp_path / "study", questions=asked, design={"show": "pair"})
    analysis = made_up(study).model_copy(update={"findings": (), "agreement": (), "intra_rater": ()})
    found = heds.datasheet(study, analysis, flow(people("simulated"), analysis))
    assert found.criteria["better"]["4.2.2"] == heds.Chosen(((2, "2. Relative"),))
    assert found.criteria["better"]["4.3.3"] == "3"
    assert "simulated" in str(found.experiment["3.2.3"])


def test_the_form_reads_it(sheet: heds.Datasheet) -> None:
    """The form keeps each entry under its field's name and reads `data`, `control` and, of options, `text`."""
    found = json.loads(heds.to_json(sheet))
    fields = {f"heds-{question.field}" for question in heds.QUESTIONS}
    criteria = found.pop("heds-criteria-criterion")
    assert criteria["control"] == {"understandability": True, "overall": False, "remark": False}
    for name, entry in found.items():
        option = name.rpartition("-")[2]
        assert name in fields or (
            name.rpartition("-")[0] in fields and (option.isdigit() or option == "other_text")
        )
        assert set(entry) - {"number"} <= {"data", "control", "text"}
        keys = set(criteria["control"]) if name.startswith("heds-criteria-criterion-") else {""}
        assert set(entry["data"]) <= keys
    design = "heds-sample_evaluators_design-"
    assert found[f"{design}evaluators-number_of_evaluators"]["data"] == {"": "12"}
    chosen = found[f"{design}sample-system_output_selection-2"]
    assert chosen["data"] == {"": True}
    assert chosen["text"][""].startswith("2. By an automatic random process")
    assert found["heds-criteria-criterion-response_elicitation-size_of_scale"]["data"] == {
        "understandability": "7", "overall": "7", "remark": "N/A",
    }  # fmt: skip


def test_markdown_says_what_is_open(sheet: heds.Datasheet) -> None:
    plain = heds.to_markdown(sheet).decode()
    assert "34 of 62 questions are filled in" in plain
    assert (
        plain.count("Only the researchers can answer this.") == len(ONLY_RESEARCHERS) + 2 * 4
    )  # 4 for each criterion
    assert "> Is the text understandable?" in plain
