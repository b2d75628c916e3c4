"""What sessions promise, on SQLite and on PostgreSQL alike: test classes inherit `SessionsContract`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from study_support import make_study

from userstudy.database.engine import open_database, transaction
from userstudy.database.models import Answer, Base, Event, Identity, Participant, Trial
from userstudy.errors import StudyError
from userstudy.operation import exclude, set_admission
from userstudy.pages import View
from userstudy.sessions import Prolific, Sessions
from userstudy.study import Study
from userstudy.tokens import sign

__all__ = [
    "SMALL",
    "Clock",
    "ProcessesContract",
    "SessionsContract",
    "World",
    "answer_page",
    "open_quickly",
    "refused",
]

SMALL = {"design": {"items": 3, "per_participant": 3, "repeats": 0, "attention_checks": 0}, "items": 3}


@dataclass
class Clock:
    """A clock that goes when told to."""

    time: datetime = datetime(2026, 1, 1, 12)

    def __call__(self) -> datetime:
        return self.time

    def goes(self, **amount: float) -> None:
        self.time += timedelta(**amount)


@dataclass
class World:
    """A study, its database, and what its participants do."""

    study: Study
    engine: Engine
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        if self.engine.dialect.name == "sqlite":
            # Power cuts are not what is tested here, and waiting for the disk takes most of the time.
            event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
            self.engine.dispose()
        self.sessions = Sessions(self.study, self.engine, self.clock)

    def rating(self, **enrolled: Any) -> str:
        """A participant on the first page."""
        token = self.sessions.enrol(**{"language": "en", "device": "desktop", **enrolled})
        self.sessions.start_check(token)
        assert self.sessions.check(token, [0])
        return token

    def finished(self, **enrolled: Any) -> str:
        """A participant with a completion code."""
        token = self.rating(**enrolled)
        for position in range(self.sessions.view(token).pages):
            answer_page(self.sessions, token, position)
            if position + 1 < self.sessions.view(token).pages:
                self.sessions.turn(token, position, position + 1, 10.0)
        self.sessions.finish(token, 10.0)
        return token

    def count(self, table: type[Base], **where: Any) -> int:
        with transaction(self.engine, write=False) as session:
            return session.execute(select(func.count()).select_from(table).filter_by(**where)).scalar_one()

    def statuses(self) -> list[str]:
        with transaction(self.engine, write=False) as session:
            return list(session.scalars(select(Participant.status).order_by(Participant.id)))

    def forms(self) -> Counter[int]:
        with transaction(self.engine, write=False) as session:
            wanted = select(Participant.form).where(Participant.status.in_(("active", "completed")))
            return Counter(session.scalars(wanted))


_empty: list[bytes] = []


def open_quickly(study: Study, url: str | None = None) -> Engine:
    """Open a new database; the tables of the second one and on are copied from the first."""
    file = study.path / "study.sqlite"
    if url is None and _empty:
        file.write_bytes(_empty[0])
    engine = open_database(study, url)
    if url is None and not _empty:
        with engine.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute("DELETE FROM admissions")  # it names the study
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _empty.append(file.read_bytes())
        engine.dispose()
        engine = open_database(study)
    return engine


def answer_page(sessions: Sessions, token: str, position: int, value: str = "3") -> None:
    """Give all required answers on a page."""
    for question in ("understandability", "overall"):
        sessions.answer(token, position, question, value, f"{position}-{question}")


def refused(kind: str, call: Callable[[], object]) -> None:
    with pytest.raises(StudyError) as caught:
        call()
    assert caught.value.kind == kind


class SessionsContract:
    """Subclasses have a fixture `url`: the address of an empty database, None for SQLite in the study."""

    @pytest.fixture
    def make(self, tmp_path: Path, url: str | None) -> Iterator[Callable[..., World]]:
        opened: list[Engine] = []

        def make(**changes: Any) -> World:
            study = make_study(tmp_path / "study", **SMALL | changes)
            opened.append(open_quickly(study, url))
            return World(study, opened[-1])

        yield make
        for engine in opened:
            engine.dispose()

    @pytest.fixture
    def world(self, make: Callable[..., World]) -> World:
        return make()

    def test_whole_way(self, world: World) -> None:
        sessions = world.sessions
        token = sessions.enrol("de", "phone")
        view = sessions.view(token)
        assert (view.stage, view.language, view.pages, view.page) == ("instructions", "de", 3, None)
        assert sessions.start_check(token).stage == "check"
        assert not sessions.check(token, [1])
        assert sessions.view(token).stage == "check"
        assert sessions.check(token, [0])
        view = sessions.view(token)
        assert view.page is not None
        assert (view.stage, view.position, view.answered) == ("rating", 0, (False, False, False))
        assert view.page.questions == ("understandability", "overall", "remark")
        sessions.answer(token, 0, "remark", "Grüße 😀\nand more", "r")
        for position in range(3):
            answer_page(sessions, token, position, str(position + 1))
            if position < 2:
                view = sessions.turn(token, position, position + 1, 4.0)
                assert view.position == position + 1
        view = sessions.turn(token, 2, 0, 4.0)
        assert view.page is not None
        assert view.page.answers == {
            "understandability": "1", "overall": "1", "remark": "Grüße 😀\nand more"
        }  # fmt: skip
        assert view.answered == (True, True, True)
        view = sessions.finish(token, 1.0)
        assert (view.stage, view.page, len(view.code or "")) == ("debrief", None, 8)
        assert sessions.finish(token, 1.0) == view == sessions.view(token)
        refused("already_took_part", lambda: sessions.answer(token, 0, "overall", "1", "late"))
        refused("already_took_part", lambda: sessions.turn(token, 0, 1, 1.0))
        assert world.statuses() == ["completed"]

    def test_code_and_address_of_the_study(self, make: Callable[..., World]) -> None:
        there = "https://app.prolific.com/submissions/complete?cc=C1"
        world = make(recruitment={"completion_code": "C1", "completion_url": there})
        view = world.sessions.view(world.finished())
        assert (view.code, view.url) == ("C1", there)

    def test_an_answer_is_stored_once_and_kept_when_replaced(self, world: World) -> None:
        token = world.rating()
        for _ in range(3):
            world.sessions.answer(token, 0, "overall", "2", "a")
        assert world.count(Answer) == 1
        world.sessions.answer(token, 0, "overall", "5", "b")
        world.sessions.answer(token, 0, "overall", "2", "a")  # a late repetition of the first changes nothing
        page = world.sessions.view(token).page
        assert page is not None
        assert page.answers == {"overall": "5"}
        assert world.count(Answer) == 2

    def test_a_key_is_unique_in_the_database_too(self, world: World) -> None:
        token = world.rating()
        world.sessions.answer(token, 0, "overall", "2", "a")
        copy = text(
            "INSERT INTO answers (participant_id, trial_id, question, value, key, at) "
            "SELECT participant_id, trial_id, question, value, key, at FROM answers"
        )
        with pytest.raises(IntegrityError), transaction(world.engine) as session:
            session.execute(copy)

    def test_no_answer_to_anything_asked(self, world: World) -> None:
        token = world.rating()
        wrong: tuple[tuple[Any, ...], ...] = (
            (0, "overall", "0", "k"),
            (0, "overall", "8", "k"),
            (0, "overall", " 3", "k"),
            (0, "overall", "", "k"),
            (0, "overall", "٣", "k"),
            (0, "overall", 3, "k"),
            (0, "overall", None, "k"),
            (0, "nothing", "3", "k"),
            (0, ["overall"], "3", "k"),
            (0, "remark", "x" * 5001, "k"),
            (0, "overall", "3", ""),
            (0, "overall", "3", "k" * 65),
            (0, "overall", "3", "a b"),
            (0, "overall", "3", None),
            (1, "overall", "3", "k"),  # not reached yet
            (-1, "overall", "3", "k"),
            (3, "overall", "3", "k"),
            (True, "overall", "3", "k"),
            ("0", "overall", "3", "k"),
            (10**30, "overall", "3", "k"),
        )
        for sent in wrong:
            refused("invalid_answer", lambda sent=sent: world.sessions.answer(token, *sent))
        assert world.count(Answer) == 0

    def test_texts_that_databases_refuse(self, world: World) -> None:
        token = world.rating()
        world.sessions.answer(token, 0, "remark", "a\x00b\ud800c\n", "k")
        page = world.sessions.view(token).page
        assert page is not None
        assert page.answers == {"remark": "a\ufffdb\ufffdc\n"}

    def test_forward_only_with_answers(self, world: World) -> None:
        token = world.rating()
        refused("invalid_answer", lambda: world.sessions.turn(token, 0, 1, 1.0))
        refused("invalid_answer", lambda: world.sessions.finish(token))
        world.sessions.answer(token, 0, "overall", "3", "a")
        refused("invalid_answer", lambda: world.sessions.turn(token, 0, 1, 1.0))
        answer_page(world.sessions, token, 0)
        world.sessions.turn(token, 0, 1, 1.0)
        refused("invalid_answer", lambda: world.sessions.turn(token, 1, 2, 1.0))
        assert world.sessions.turn(token, 1, 0, 1.0).position == 0
        refused("invalid_answer", lambda: world.sessions.turn(token, 0, 2, 1.0))
        refused("invalid_answer", lambda: world.sessions.turn(token, 0, 3, 1.0))
        refused("invalid_answer", lambda: world.sessions.turn(token, 0, 1, float("nan")))
        refused("invalid_answer", lambda: world.sessions.turn(token, 0, 1, -1.0))
        assert world.sessions.view(token).position == 0

    def test_time_on_a_page_counts_once(self, world: World) -> None:
        token = world.rating()
        answer_page(world.sessions, token, 0)
        for _ in range(2):
            world.sessions.turn(token, 0, 1, 7.0)  # the second is a repetition
        world.sessions.turn(token, 1, 0, 2.0)
        world.sessions.turn(token, 0, 1, 3.5)
        world.sessions.turn(token, 1, 0, float("inf"))
        with transaction(world.engine, write=False) as session:
            assert list(session.scalars(select(Trial.seconds).order_by(Trial.position))) == [
                10.5,
                3602.0,
                0.0,
            ]

    def test_the_check_has_so_many_attempts(self, world: World) -> None:
        token = world.sessions.enrol("en", "desktop")
        refused("invalid_answer", lambda: world.sessions.answer(token, 0, "overall", "3", "k"))
        refused("invalid_answer", lambda: world.sessions.check(token, [0]))
        world.sessions.start_check(token)
        for wrong in ([], [0, 0], ["0"], [True]):
            refused("invalid_answer", lambda wrong=wrong: world.sessions.check(token, wrong))
        assert world.sessions.check(token, [1]) is False
        refused("screened_out", lambda: world.sessions.check(token, [1]))
        refused("screened_out", lambda: world.sessions.check(token, [0]))
        refused("screened_out", lambda: world.sessions.view(token))
        assert world.statuses() == ["screened_out"]

    def test_an_attempt_at_the_check_sent_twice_is_one(self, world: World) -> None:
        """The page sends it again where the reply was lost; with two attempts that would end the session."""
        token = world.sessions.enrol("en", "desktop")
        world.sessions.start_check(token)
        assert world.sessions.check(token, [1], "an_attempt") is False
        assert world.sessions.check(token, [1], "an_attempt") is False
        assert world.sessions.view(token).stage == "check"
        refused("invalid_answer", lambda: world.sessions.check(token, [1], "no key"))
        assert world.sessions.check(token, [0], "another")
        other = world.sessions.enrol("en", "desktop")
        world.sessions.start_check(other)
        assert world.sessions.check(other, [1], "anXattempt") is False
        refused("screened_out", lambda: world.sessions.check(other, [1], "an_attempt"))

    def test_no_check_where_nothing_is_asked(self, make: Callable[..., World]) -> None:
        world = make(check=[])
        assert world.sessions.start_check(world.sessions.enrol("en", "desktop")).stage == "rating"

    def test_language(self, world: World) -> None:
        token = world.sessions.enrol("xx", "toaster")
        assert world.sessions.view(token).language == "en"
        assert world.sessions.language(token, "de").language == "de"
        refused("invalid_answer", lambda: world.sessions.language(token, "fr"))
        assert world.count(Participant, device=None, language="de") == 1

    def test_tokens(self, world: World, tmp_path: Path) -> None:
        token = world.rating()
        secret, other = world.study.secret, b"another study's key, 32 characters"
        with transaction(world.engine, write=False) as session:
            key = session.scalars(select(Participant.key)).one()
        forged = (
            "", "x", "\x00", "ü", "x" * 10_000, token[:-1], token + "x", token.swapcase(),
            sign(other, "participant", key), sign(secret, "admin", key), sign(secret, "participant", "nobody"),
        )  # fmt: skip
        for wrong in forged:
            refused("link_invalid", lambda wrong=wrong: world.sessions.view(wrong))
            refused("link_invalid", lambda wrong=wrong: world.sessions.answer(wrong, 0, "overall", "3", "k"))
            refused("link_invalid", lambda wrong=wrong: world.sessions.withdraw(wrong))
        assert len(key) >= 22
        assert world.statuses() == ["active"]

    def test_a_token_runs_out(self, make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
        world = make(recruitment={"link_valid_days": 1})
        token = world.sessions.enrol("en", "desktop")
        import time

        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 24 * 3600 - 60)
        assert world.sessions.view(token).stage == "instructions"
        monkeypatch.setattr(time, "time", lambda: real() + 24 * 3600 + 60)
        refused("link_expired", lambda: world.sessions.view(token))

    def test_participants_see_and_change_their_own(self, world: World) -> None:
        first, second = world.rating(), world.rating()
        world.sessions.answer(first, 0, "overall", "2", "same-key")
        world.sessions.answer(second, 0, "overall", "6", "same-key")
        pages = [world.sessions.view(token).page for token in (first, second)]
        assert [page.answers for page in pages if page] == [{"overall": "2"}, {"overall": "6"}]
        world.sessions.withdraw(first)
        page = world.sessions.view(second).page
        assert page is not None
        assert page.answers == {"overall": "6"}

    def test_forms_are_given_out_evenly_until_the_study_is_full(self, make: Callable[..., World]) -> None:
        world = make(recruitment={"participants": 7})
        for number in range(7):
            world.sessions.enrol("en", "desktop")
            assert max(world.forms().values()) <= number // 3 + 1
        assert sorted(world.forms().values()) == [2, 2, 3]
        refused("study_full", lambda: world.sessions.enrol("en", "desktop"))
        assert world.sessions.enrol("en", "desktop", kind="preview")
        assert world.sessions.enrol("en", "desktop", kind="simulated")

    def test_a_silent_session_gives_its_place_away(self, make: Callable[..., World]) -> None:
        world = make(recruitment={"participants": 1, "abandoned_after_minutes": 60})
        silent = world.rating()
        answer_page(world.sessions, silent, 0)
        world.clock.goes(minutes=59)
        refused("study_full", lambda: world.sessions.enrol("en", "desktop"))
        world.clock.goes(minutes=3)
        new = world.sessions.enrol("en", "desktop")
        assert world.statuses() == ["released", "active"]
        for call in (
            lambda: world.sessions.view(silent),
            lambda: world.sessions.answer(silent, 0, "overall", "5", "more"),
            lambda: world.sessions.finish(silent),
        ):
            refused("released", call)
        assert world.count(Answer) == 2
        world.sessions.withdraw(new)
        page = world.sessions.view(silent).page  # there is a place again
        assert page is not None
        assert page.answers == {"understandability": "3", "overall": "3"}
        assert world.statuses() == ["active", "withdrawn"]
        assert world.count(Event, kind="returned") == 1

    def test_a_silent_session_goes_on_where_nobody_took_its_place(self, make: Callable[..., World]) -> None:
        world = make(recruitment={"participants": 1, "abandoned_after_minutes": 60})
        token = world.rating()
        world.clock.goes(days=3)
        assert world.sessions.view(token).stage == "rating"
        refused("study_full", lambda: world.sessions.enrol("en", "desktop"))
        assert world.statuses() == ["active"]

    def test_who_keeps_answering_keeps_the_place(self, make: Callable[..., World]) -> None:
        world = make(recruitment={"participants": 1, "abandoned_after_minutes": 60})
        token = world.rating()
        for number in range(10):
            world.clock.goes(minutes=30)
            world.sessions.answer(token, 0, "overall", "3", str(number))
            refused("study_full", lambda: world.sessions.enrol("en", "desktop"))

    def test_prolific(self, make: Callable[..., World]) -> None:
        world = make()
        who = Prolific("5f0c-PERSON", "6a11-STUDY", "7b22-SESSION")
        token = world.rating(identity=who)
        answer_page(world.sessions, token, 0)
        again = world.sessions.enrol("de", "phone", who)
        assert world.sessions.view(again) == world.sessions.view(token)
        for other in (who._replace(session="7b22-OTHER"), who._replace(study="6a11-OTHER")):
            refused("already_took_part", lambda other=other: world.sessions.enrol("en", "desktop", other))
        refused("link_invalid", lambda: world.sessions.enrol("en", "desktop", who._replace(participant="")))
        refused("link_invalid", lambda: world.sessions.enrol("en", "desktop", who._replace(session="")))
        world.sessions.enrol("en", "desktop", who._replace(participant="5f0c-ELSE"))
        assert world.statuses() == ["active", "active"]
        with transaction(world.engine, write=False) as session:
            stored = [list(session.execute(table.select())) for table in Base.metadata.sorted_tables]
        assert "PERSON" not in str(stored)
        assert "SESSION" not in str(stored)

    def test_a_consent_sent_twice_begins_one_session(self, world: World) -> None:
        first, again = (world.sessions.enrol("en", "phone", key="made-by-the-page") for _ in range(2))
        assert world.sessions.view(first) == world.sessions.view(again)
        world.sessions.enrol("en", "phone", key="by-another")
        assert world.statuses() == ["active", "active"]
        refused("invalid_answer", lambda: world.sessions.enrol("en", "phone", key="no key"))

    def test_paused_and_closed(self, world: World) -> None:
        done, active = world.finished(), world.rating()
        set_admission(world.study, world.engine, "paused")
        refused("study_paused", lambda: world.sessions.enrol("en", "desktop"))
        answer_page(world.sessions, active, 0)
        set_admission(world.study, world.engine, "closed")
        refused("study_closed", lambda: world.sessions.enrol("en", "desktop"))
        refused("study_closed", lambda: world.sessions.view(active))
        refused("study_closed", lambda: world.sessions.turn(active, 0, 1, 1.0))
        assert world.sessions.view(done).code
        assert world.sessions.view(world.sessions.enrol("en", "desktop", kind="preview"))
        set_admission(world.study, world.engine, "open")
        assert world.sessions.turn(active, 0, 1, 1.0).position == 1
        set_admission(world.study, world.engine, "closed")
        world.sessions.withdraw(active)

    def test_withdrawal_leaves_a_tombstone(self, world: World) -> None:
        token = world.finished(identity=Prolific("P", "S", "X"))
        other = world.finished()
        before = {table: world.count(table) for table in (Trial, Answer, Event)}
        exclude(world.engine, 1, "tried out by ourselves")
        for _ in range(2):
            world.sessions.withdraw(token)
        assert {table: world.count(table) for table in before} == {t: n // 2 for t, n in before.items()}
        assert world.count(Identity) == 0
        with transaction(world.engine, write=False) as session:
            left = session.get_one(Participant, 1)
            assert (left.status, left.language, left.code, left.device, left.consented_at, left.seed) == (
                "withdrawn", "", None, None, None, 0
            )  # fmt: skip
        refused("withdrawn", lambda: world.sessions.view(token))
        refused("withdrawn", lambda: world.sessions.answer(token, 0, "overall", "3", "k"))
        assert world.sessions.view(other).code

    def test_excluded_participants_are_replaced(self, make: Callable[..., World]) -> None:
        world = make(recruitment={"participants": 1})
        world.finished()
        refused("study_full", lambda: world.sessions.enrol("en", "desktop"))
        exclude(world.engine, 1, "two people at one computer")
        world.sessions.enrol("en", "desktop")

    def test_a_vanished_text_can_be_passed(self, world: World) -> None:
        token = world.rating()
        page = world.sessions.view(token).page
        assert page is not None
        with transaction(world.engine) as session:
            trial = session.scalars(select(Trial).where(Trial.position == 0)).one()
            trial.stimuli = ["000000000000"]
        page = world.sessions.view(token).page
        assert page is not None
        assert page.gone
        assert page.parts == ()
        refused("gone", lambda: world.sessions.answer(token, 0, "overall", "3", "k"))
        assert world.sessions.turn(token, 0, 1, 1.0).position == 1

    def test_threads_never_exceed_the_target(self, make: Callable[..., World]) -> None:
        world = make(recruitment={"participants": 7})
        outcomes: list[str] = []

        def enrol() -> None:
            try:
                outcomes.append("in" if world.sessions.enrol("en", "desktop") else "")
            except StudyError as error:
                outcomes.append(error.kind)

        _together(enrol, 16)
        assert Counter(outcomes) == {"in": 7, "study_full": 9}
        assert sorted(world.forms().values()) == [2, 2, 3]

    def test_the_same_person_twice_at_once_is_one_participant(self, world: World) -> None:
        who, views = Prolific("P", "S", "X"), list[View]()
        _together(lambda: views.append(world.sessions.view(world.sessions.enrol("en", "phone", who))), 8)
        assert len(views) == 8
        assert world.statuses() == ["active"]

    def test_the_same_answer_sent_at_once_is_stored_once(self, world: World) -> None:
        token, done = world.rating(), list[int]()

        def answer() -> None:
            world.sessions.answer(token, 0, "overall", "3", "one")
            done.append(1)

        _together(answer, 8)
        assert len(done) == 8
        assert world.count(Answer) == 1

    def test_withdrawn_while_answering(self, world: World) -> None:
        token, other, kinds = world.rating(), world.rating(), set[str]()

        def answer(number: int) -> None:
            try:
                if number == 5:
                    world.sessions.withdraw(token)
                else:
                    world.sessions.answer(token, 0, "overall", "3", str(number))
            except StudyError as error:
                kinds.add(error.kind)

        threads = [threading.Thread(target=answer, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert kinds <= {"withdrawn"}
        assert world.count(Answer) == 0
        assert world.sessions.view(other).page


class ProcessesContract:
    """What holds for several processes that serve one study; needs the fixture `url`, too."""

    def test_processes_that_start_at_once_share_the_places(self, tmp_path: Path, url: str | None) -> None:
        study = make_study(tmp_path / "study", **SMALL | {"recruitment": {"participants": 17}})
        workers = [_worker(study, url, tmp_path / "gate", 8) for _ in range(3)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        (tmp_path / "gate").touch()
        said = [worker.communicate(timeout=120) for worker in workers]
        assert Counter("".join(out for out, _ in said).split()) == {"enrolled": 17, "study_full": 7}, said
        engine = open_database(study, url)
        assert sorted(World(study, engine).forms().values()) == [5, 6, 6]
        engine.dispose()

    def test_a_killed_process_loses_nothing_acknowledged(self, tmp_path: Path, url: str | None) -> None:
        study = make_study(tmp_path / "study", **SMALL)
        (tmp_path / "gate").touch()
        worker = _worker(study, url, tmp_path / "gate", 0)
        assert worker.stdout is not None
        said = [worker.stdout.readline() for _ in range(60)]
        worker.kill()
        said += worker.communicate(timeout=120)[0].splitlines(keepends=True)
        keys = [line.strip() for line in said if line.startswith("key-") and line.endswith("\n")]
        assert len(keys) >= 59
        engine = open_database(study, url)
        with transaction(engine, write=False) as session:
            stored = list(session.scalars(select(Answer.key).order_by(Answer.id)))
        engine.dispose()
        assert stored[: len(keys)] == keys
        assert len(stored) <= len(keys) + 1  # stored, and killed before it could say so


def _worker(study: Study, url: str | None, gate: Path, enrolments: int) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("study_worker.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(study.path), url or "", str(gate), str(enrolments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _together(call: Callable[[], object], number: int) -> None:
    """Call it from so many threads at one moment."""
    barrier = threading.Barrier(number)

    def wait() -> None:
        barrier.wait()
        call()

    threads = [threading.Thread(target=wait) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
