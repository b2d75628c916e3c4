"""Participants do whatever they like, in any order: what must hold always holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import (  # noqa: E402
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import select  # noqa: E402
from study_contract import SMALL, World, open_quickly  # noqa: E402
from study_support import make_study  # noqa: E402

from userstudy.database.engine import transaction  # noqa: E402
from userstudy.database.models import Answer, Trial  # noqa: E402
from userstudy.errors import StudyError  # noqa: E402
from userstudy.operation import set_admission  # noqa: E402

pytestmark = pytest.mark.e2e
TARGET = 3
QUESTIONS = st.sampled_from(["understandability", "overall"])


class Machine(RuleBasedStateMachine):
    """A study of three places, and a model of it: what each person has been told is stored."""

    tokens: Bundle[str] = Bundle("tokens")

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        study = make_study(self.directory / "study", **SMALL | {"recruitment": {"participants": TARGET}})
        self.world = World(study, open_quickly(study))
        self.sessions = self.world.sessions
        self.told: dict[str, dict[tuple[int, str], str]] = {}
        self.number = 0
        self.refusals: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.engine.dispose()
            shutil.rmtree(self.directory)

    @rule(target=tokens)
    def enrol(self) -> object:
        try:
            token = self.sessions.enrol("en", "desktop")
        except StudyError as error:
            self.refusals.add(error.kind)
            return multiple()
        self.sessions.start_check(token)
        self.sessions.check(token, [0])
        self.told[token] = {}
        return token

    @rule(token=tokens, position=st.integers(0, 2), question=QUESTIONS, value=st.sampled_from("12345678"))
    def answer(self, token: str, position: int, question: str, value: str) -> None:
        self.number += 1
        try:
            self.sessions.answer(token, position, question, value, str(self.number))
        except StudyError:
            return
        assert value != "8"
        self.told[token][position, question] = value

    @rule(token=tokens, start=st.integers(0, 2), end=st.integers(0, 2))
    def turn(self, token: str, start: int, end: int) -> None:
        try:
            view = self.sessions.turn(token, start, end, 1.0)
        except StudyError:
            return
        assert view.position == end
        assert all((p, q) in self.told[token] for p in range(end) for q in ("understandability", "overall"))

    @rule(token=tokens)
    def hurry(self, token: str) -> None:
        """Answer everything and finish, where that is possible."""
        try:
            for position in range(3):
                for question in ("understandability", "overall"):
                    self.answer(token, position, question, "4")
                if position < 2:
                    self.sessions.turn(token, position, position + 1, 1.0)
            self.sessions.finish(token)
        except StudyError:
            return
        assert len(self.told[token]) == 6

    @rule(token=consumes(tokens))
    def withdraw(self, token: str) -> None:
        self.sessions.withdraw(token)
        del self.told[token]

    @rule(hours=st.sampled_from([0.5, 3.0]))
    def wait(self, hours: float) -> None:
        self.world.clock.goes(hours=hours)

    @rule(status=st.sampled_from(["open", "open", "paused", "closed"]))
    def admit(self, status: str) -> None:
        set_admission(self.world.study, self.world.engine, status)  # type: ignore[arg-type]

    @invariant()
    def places_are_never_given_twice(self) -> None:
        if hasattr(self, "world"):
            assert self.world.forms().total() <= TARGET
            assert self.refusals <= {"study_full", "study_paused", "study_closed"}

    @invariant()
    def what_was_acknowledged_is_there_and_nothing_else(self) -> None:
        if not hasattr(self, "world"):
            return
        latest = select(Answer.participant_id, Trial.position, Answer.question, Answer.value)
        joined = latest.join(Trial, Answer.trial_id == Trial.id)
        with transaction(self.world.engine, write=False) as session:
            rows = session.execute(joined.order_by(Answer.id)).all()
            ids = {token: self.sessions._access.find(session, token).id for token in self.told}
        stored: dict[int, dict[tuple[int, str], str]] = {}
        for participant, position, question, value in rows:
            stored.setdefault(participant, {})[position, question] = value
        assert stored == {ids[token]: told for token, told in self.told.items() if told}


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
