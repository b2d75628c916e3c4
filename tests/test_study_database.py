"""Opening, migrating, and what happens where the database cannot be used."""

from __future__ import annotations

import importlib.util
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from alembic import command  # noqa: E402
from alembic.autogenerate import compare_metadata  # noqa: E402
from alembic.runtime.migration import MigrationContext  # noqa: E402
from sqlalchemy import Engine, create_engine, event, inspect, text  # noqa: E402
from study_contract import SMALL, World, answer_page, refused  # noqa: E402
from study_support import make_study  # noqa: E402

from quantxai.errors import InputError, MissingExtra  # noqa: E402
from userstudy.database import engine as engines  # noqa: E402
from userstudy.database.engine import open_database, transaction  # noqa: E402
from userstudy.database.migrate import configuration  # noqa: E402
from userstudy.database.models import Answer, Base, Trial  # noqa: E402
from userstudy.database.turns import Turns  # noqa: E402
from userstudy.errors import StudyError  # noqa: E402
from userstudy.study import Study  # noqa: E402


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "study", **SMALL)


@pytest.fixture
def engine(study: Study) -> Iterator[Engine]:
    engine = open_database(study)
    yield engine
    engine.dispose()


@pytest.fixture
def world(study: Study, engine: Engine) -> World:
    return World(study, engine)


def test_migrations_make_what_the_models_say(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_migrations_down_and_up_again() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "head")
        assert set(Base.metadata.tables) < set(inspect(connection).get_table_names())
        command.downgrade(configuration(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(configuration(connection), "head")
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_answers_are_there_when_opened_again(study: Study, world: World) -> None:
    token = world.rating()
    answer_page(world.sessions, token, 0)
    again = open_database(study, f"sqlite:///{study.path / 'study.sqlite'}")
    assert World(study, again).sessions.view(token) == world.sessions.view(token)
    again.dispose()


def test_a_directory_whose_name_is_no_address(tmp_path: Path) -> None:
    study = make_study(tmp_path / "a study? 100%20 #1", **SMALL)
    engine = open_database(study)
    assert World(study, engine).rating()
    engine.dispose()
    assert (study.path / "study.sqlite").stat().st_size > 0


def test_sqlite_is_durable_and_checks_references(engine: Engine) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    with engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted}
    assert found == wanted


def test_nobody_else_on_the_machine_reads_the_file(study: Study, world: World) -> None:
    world.rating()
    files = [study.path / f"study.sqlite{end}" for end in ("", "-wal", "-shm")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_newer_database(study: Study, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"newer quantxai .*9999"):
        open_database(study)


def test_another_study_s_answers(study: Study, engine: Engine, tmp_path: Path) -> None:
    other = make_study(tmp_path / "other", **SMALL | {"items": 4})
    with pytest.raises(InputError, match="other material"):
        open_database(other, f"sqlite:///{study.path / 'study.sqlite'}")


def test_tables_of_another_program(study: Study) -> None:
    with sqlite3.connect(study.path / "study.sqlite") as connection:
        connection.execute("CREATE TABLE answers (id)")
    with pytest.raises(InputError, match="another program"):
        open_database(study)


def test_what_is_no_database(study: Study, tmp_path: Path) -> None:
    (study.path / "study.sqlite").write_text("This is a text, and not a database. " * 50)
    with pytest.raises(InputError, match="cannot be opened: file is not a database"):
        open_database(study)
    with pytest.raises(InputError, match="cannot be opened: unable to open"):
        open_database(study, f"sqlite:///{tmp_path}/nowhere/study.sqlite")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no address", "cannot be understood"),
        ("postgresql://me:hush@[::1/db", "cannot be understood"),
        ("postgresql://me:hush@host:port/db", "cannot be understood"),
        ("mysql://me:hush@host/db", "SQLite .* or PostgreSQL, not mysql"),
        ("oracle+nothing://me:hush@host/db", "not oracle"),
        ("sqlite://", "SQLite"),
        ("postgresql://me:hush@127.0.0.1:1/db", "cannot be opened: .*refused"),
        ("postgres://me:hush@127.0.0.1:1/db?nonsense=hush", "cannot be opened"),
    ],
)
def test_addresses(study: Study, url: str, message: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InputError, match=message) as caught:
        open_database(study, url)
    assert "hush" not in str(caught.value)


def test_postgresql_without_its_driver(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"\[postgres\]"):
        open_database(study, "postgresql://me@host/db")


def test_without_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    import userstudy.database

    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingExtra, match=r"\[study\]"):
            importlib.reload(userstudy.database)
    importlib.reload(userstudy.database)


def test_a_full_database_loses_nothing_and_recovers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(engines._LOG, "error", lambda message, *parts: logged.append(message % parts))
    token = world.rating()
    answer_page(world.sessions, token, 0)
    with world.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    @event.listens_for(world.engine, "checkout")
    def _full(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    stored = 0
    with pytest.raises(StudyError) as caught:  # noqa: PT012
        for stored in range(200):
            world.sessions.answer(token, 0, "remark", "a secret remark " * 300, f"full-{stored}")
    assert caught.value.kind == "unavailable"
    assert "database or disk is full" in logged[0]
    assert "a secret remark" not in logged[0] + str(caught.value)
    assert world.count(Answer) == 2 + stored
    with pytest.raises(StudyError, match="full"):  # noqa: PT012
        for _ in range(12):
            world.sessions.enrol("en", "desktop")
    assert world.count(Trial) == 3 * len(world.statuses())  # nobody with half of their pages
    event.remove(world.engine, "checkout", _full)
    world.engine.dispose()
    with world.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    world.sessions.answer(token, 0, "remark", "short", f"full-{stored}")
    assert world.sessions.turn(token, 0, 1, 1.0).position == 1


def test_a_locked_database(world: World, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    token = world.rating()
    monkeypatch.setattr(engines, "_WAIT_SECONDS", 0)
    other = sqlite3.connect(study.path / "study.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused("unavailable", lambda: world.sessions.answer(token, 0, "overall", "3", "k"))
    assert world.sessions.view(token).stage == "rating"  # readers wait for nobody
    other.execute("ROLLBACK")
    other.close()
    world.sessions.answer(token, 0, "overall", "3", "k")
    assert world.count(Answer) == 1


def test_a_file_that_goes_and_returns(world: World, study: Study) -> None:
    """Without looking, open connections would go on writing into the file that has no name any more."""
    token, file = world.rating(), study.path / "study.sqlite"
    away = file.with_name("elsewhere.sqlite")
    world.sessions.answer(token, 0, "overall", "3", "before")

    file.rename(away)
    refused("unavailable", lambda: world.sessions.answer(token, 0, "overall", "4", "meanwhile"))
    refused("unavailable", lambda: world.sessions.view(token))
    assert not file.exists()  # nor is an empty one made in its place
    away.rename(file)

    page = world.sessions.view(token).page
    assert page is not None
    assert page.answers == {"overall": "3"}
    world.sessions.answer(token, 0, "overall", "4", "meanwhile")  # as the page does that has had no answer
    assert world.count(Answer) == 2


def test_nothing_is_kept_of_an_error_in_the_block(world: World) -> None:
    with pytest.raises(ZeroDivisionError), transaction(world.engine) as session:  # noqa: PT012
        session.execute(text("UPDATE admissions SET status = 'closed'"))
        raise ZeroDivisionError
    with transaction(world.engine, write=False) as session:
        assert session.execute(text("SELECT status FROM admissions")).scalar_one() == "open"


def test_withdrawn_words_are_overwritten(world: World, study: Study) -> None:
    token, words = world.rating(), "something very personal"
    world.sessions.answer(token, 0, "remark", words, "k")
    files = [study.path / "study.sqlite", study.path / "study.sqlite-wal"]
    assert any(words.encode() in file.read_bytes() for file in files)
    world.sessions.withdraw(token)
    assert not any(words.encode() in file.read_bytes() for file in files)


def test_withdrawing_is_done_even_where_tidying_up_fails(world: World) -> None:
    token = world.rating()

    def forbid(action: int, what: str | None, *_: object) -> int:
        tidying = action == sqlite3.SQLITE_PRAGMA and what == "wal_checkpoint"
        return sqlite3.SQLITE_DENY if tidying else sqlite3.SQLITE_OK

    event.listen(world.engine, "checkout", lambda raw, *_: raw.set_authorizer(forbid))
    world.sessions.withdraw(token)
    refused("withdrawn", lambda: world.sessions.view(token))


def test_turns_come_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[int]()

    def take(number: int) -> None:
        with turns.turn(10):
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns.turn(10):
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_turn_that_does_not_come() -> None:
    turns = Turns()
    with turns.turn(10), pytest.raises(TimeoutError), turns.turn(0.01):
        raise AssertionError
    with turns.turn(0.01):
        pass


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn(1):
        _ = 1 / 0
    with turns.turn(0.01):
        pass
