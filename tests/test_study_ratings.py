"""The table of ratings, against a table worked out from what was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from sqlalchemy import select  # noqa: E402
from study_contract import SMALL, World, answer_page, open_quickly  # noqa: E402
from study_support import make_study  # noqa: E402
from test_study_pages import LABEL, PAIR  # noqa: E402

from userstudy.database.engine import transaction  # noqa: E402
from userstudy.database.models import Trial  # noqa: E402
from userstudy.operation import exclude, include  # noqa: E402
from userstudy.ratings import COLUMNS, ratings  # noqa: E402


def _world(path: Path, **changes: Any) -> World:
    study = make_study(path / "study", **changes)
    return World(study, open_quickly(study))


def _shown(world: World, participant: int) -> list[Trial]:
    with transaction(world.engine, write=False) as session:
        wanted = select(Trial).where(Trial.participant_id == participant).order_by(Trial.position)
        return list(session.scalars(wanted))


def test_scales_repeats_and_checks(tmp_path: Path) -> None:
    world = _world(tmp_path)
    token = world.rating(language="de", device="phone")
    trials = _shown(world, 1)
    assert sorted(trial.kind for trial in trials) == ["attention"] + ["rating"] * 6 + ["repeat"]
    for trial in trials:
        answer_page(world.sessions, token, trial.position, str(trial.position % 7 + 1))
        if trial.position + 1 < len(trials):
            world.sessions.turn(token, trial.position, trial.position + 1, trial.position + 0.5)
    world.sessions.answer(token, 2, "overall", "7", "again")
    world.sessions.answer(token, 2, "remark", "=1+1", "remark")
    world.sessions.answer(token, 0, "remark", "oh", "oh")
    world.sessions.answer(token, 0, "remark", "", "oh-no")
    table = ratings(world.study, world.engine)
    assert list(table.columns) == list(COLUMNS)
    checks = {check.id: check for check in world.study.design.attention}
    expected = []
    for trial in trials:
        [shown] = trial.stimuli
        about = world.study.stimuli[checks[shown].stimulus if shown in checks else shown]
        for question in ("understandability", "overall", "remark"):
            text: str | None = str(trial.position % 7 + 1)
            if trial.position == 2 and question != "understandability":
                text = {"overall": "7", "remark": "=1+1"}[question]
            elif question == "remark":
                continue
            if shown in checks and checks[shown].question != question:
                continue
            value = None if question == "remark" else float(text or "nan")
            if shown in checks:
                value = 1.0 if text == checks[shown].answer else 0.0
            seconds = trial.position + 0.5 if trial.position + 1 < len(trials) else 0.0
            expected.append(
                (1, "active", "de", "phone", trial.position, trial.kind, shown, about.item, about.group,
                 about.explainer, "inference", about.variant, about.label, about.outcome, question,
                 "text" if question == "remark" else "likert", value, text, seconds, "")
            )  # fmt: skip
    got = (
        table.drop(columns=["at", "form"])
        .astype(object)
        .where(table.drop(columns=["at", "form"]).notna(), None)
    )
    assert [tuple(row) for row in got.itertuples(index=False)] == expected
    assert set(table["at"]) == {pd.Timestamp("2026-01-01 12:00")}
    world.engine.dispose()


def test_a_pair_s_answer_is_about_the_variant(tmp_path: Path) -> None:
    world = _world(tmp_path, **PAIR)
    tokens = [world.rating(), world.rating()]
    for participant, token in enumerate(tokens, 1):
        for trial in _shown(world, participant):
            side = ("left", "right", "same")[trial.position % 3]
            world.sessions.answer(token, trial.position, "better", side, f"k{trial.position}")
            if trial.position + 1 < len(_shown(world, participant)):
                world.sessions.turn(token, trial.position, trial.position + 1, 1.0)
    table = ratings(world.study, world.engine)
    rated = table[table["kind"] == "rating"]
    for row in rated.itertuples():
        left, right = _shown(world, row.participant)[row.position].stimuli
        variants = [world.study.stimuli[s].variant for s in (left, right)]
        assert variants.count("full") == 1
        preferred = {"left": variants[0], "right": variants[1], "same": None}[row.text]
        expected = 0.0 if preferred is None else -1.0 if preferred == "full" else 1.0
        assert (row.value, row.variant) == (expected, next(v for v in variants if v != "full"))
        assert row.stimulus == (left if variants[1] == "full" else right)
    assert len(rated) == 2 * 6
    world.engine.dispose()


def test_a_guess_is_right_or_wrong(tmp_path: Path) -> None:
    world = _world(tmp_path, **LABEL | {"design": {"repeats": 0, "attention_checks": 0}})
    for participant in (1, 2, 3):  # one on each form
        token = world.rating()
        for trial in _shown(world, participant):
            world.sessions.answer(token, trial.position, "guess", "neutral", f"k{trial.position}")
            if trial.position < 5:
                world.sessions.turn(token, trial.position, trial.position + 1, 1.0)
    table = ratings(world.study, world.engine)
    says = [world.study.stimuli[stimulus].answer for stimulus in table["stimulus"]]
    assert list(table["value"]) == [float(answer == "neutral") for answer in says]
    assert sorted(set(table["value"])) == [0.0, 1.0]
    world.engine.dispose()


def test_whose_answers_count(tmp_path: Path) -> None:
    world = _world(tmp_path, **SMALL)
    assert len(ratings(world.study, world.engine)) == 0
    for kind in ("preview", "simulated"):
        answer_page(world.sessions, world.rating(kind=kind), 0)
    assert set(ratings(world.study, world.engine)["participant"]) == {2}
    withdrawn = world.rating()
    answer_page(world.sessions, withdrawn, 0)
    answer_page(world.sessions, world.rating(), 0)
    world.sessions.withdraw(withdrawn)
    assert set(ratings(world.study, world.engine)["participant"]) == {4}
    assert set(ratings(world.study, world.engine, "simulated")["participant"]) == {2}
    exclude(world.engine, 4, "a colleague")
    assert set(ratings(world.study, world.engine)["excluded"]) == {"a colleague"}
    include(world.engine, 4)
    assert set(ratings(world.study, world.engine)["excluded"]) == {""}
    world.engine.dispose()
