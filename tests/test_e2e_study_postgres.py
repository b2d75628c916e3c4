"""The user study on a real PostgreSQL, which goes away and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.register_assert_rewrite("study_contract")

from alembic import command  # noqa: E402
from alembic.autogenerate import compare_metadata  # noqa: E402
from alembic.runtime.migration import MigrationContext  # noqa: E402
from postgres import Server  # noqa: E402
from sqlalchemy import inspect, text  # noqa: E402
from study_contract import (  # noqa: E402
    SMALL,
    ProcessesContract,
    SessionsContract,
    World,
    answer_page,
    refused,
)
from study_support import make_study  # noqa: E402

from quantxai.errors import InputError  # noqa: E402
from userstudy.database.engine import open_database, transaction  # noqa: E402
from userstudy.database.migrate import configuration  # noqa: E402
from userstudy.database.models import Answer, Base  # noqa: E402

pytestmark = pytest.mark.e2e
_FULL = """
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def url(server: Server) -> str:
    return server.database()


class TestOnPostgreSQL(SessionsContract, ProcessesContract):
    """Everything in the contract."""

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_a_server_that_goes_and_returns(self, world: World, server: Server, mode: str) -> None:
        token = world.rating()
        world.sessions.answer(token, 0, "overall", "3", "before")
        server.stop(mode)
        try:
            for _ in range(2):
                refused("unavailable", lambda: world.sessions.answer(token, 0, "overall", "4", "between"))
            refused("unavailable", lambda: world.sessions.view(token))
            refused("unavailable", lambda: world.sessions.enrol("en", "desktop"))
            refused("unavailable", lambda: world.sessions.withdraw(token))
        finally:
            server.start()
        world.sessions.answer(token, 0, "overall", "4", "between")
        answer_page(world.sessions, token, 0)
        assert world.sessions.turn(token, 0, 1, 2.0).position == 1
        assert world.count(Answer) == 4

    def test_a_server_without_room(self, world: World) -> None:
        token = world.rating()
        answer_page(world.sessions, token, 0)
        with transaction(world.engine) as session:
            session.execute(text(_FULL))
            session.execute(
                text("CREATE TRIGGER full_disk BEFORE INSERT ON answers EXECUTE FUNCTION full_disk()")
            )
        refused("unavailable", lambda: world.sessions.answer(token, 0, "overall", "5", "k"))
        with transaction(world.engine) as session:
            session.execute(text("DROP TRIGGER full_disk ON answers"))
        assert world.count(Answer) == 2
        world.sessions.answer(token, 0, "overall", "5", "k")
        assert world.count(Answer) == 3

    def test_migrations_make_what_the_models_say(self, world: World) -> None:
        with world.engine.begin() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
            command.downgrade(configuration(connection), "base")
            assert inspect(connection).get_table_names() == ["alembic_version"]
            command.upgrade(configuration(connection), "head")
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []

    def test_no_message_holds_the_password(self, server: Server, tmp_path: Path) -> None:
        study = make_study(tmp_path / "study", **SMALL)
        for wrong in (
            server.url("postgres", "wrong-password"),
            server.url("nowhere"),
            server.url("postgres").replace(str(server.port), "1"),
        ):
            with pytest.raises(InputError, match="cannot be opened") as caught:
                open_database(study, wrong)
            assert "hush" not in str(caught.value)
            assert "wrong-password" not in str(caught.value)

    def test_another_program_s_tables(self, make: Callable[..., World], url: str, tmp_path: Path) -> None:
        import psycopg

        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE participants (name text)")
        with pytest.raises(InputError, match="tables of another program"):
            make()
