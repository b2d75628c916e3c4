"""Opening a study's database: SQLite in the study directory, or PostgreSQL by URL."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from quantxai.errors import InputError, MissingExtra
from userstudy.database.migrate import migrate
from userstudy.database.turns import Turns
from userstudy.errors import StudyError
from userstudy.study import Study

__all__ = ["described", "forget", "lock_enrolment", "open_database", "transaction"]

_LOG = logging.getLogger(__name__)
_WAIT_SECONDS = 10  # for another writer, for a connection
_ENROLMENT = 7_836_141  # any number: PostgreSQL's advisory lock that enrolment takes
_WRITERS: WeakKeyDictionary[Engine, Turns] = WeakKeyDictionary()
"""SQLite lets one write at a time: threads of one process queue for it here."""
_READING = "quantxai_reading"
_OURS = (IntegrityError, ProgrammingError, DataError)  # defects of this program, not of the database


def open_database(study: Study, url: str | None = None) -> Engine:
    """Return the engine of a study's database, created or brought up to date where needed.

    Args:
        study: whose participants and answers it holds.
        url: `postgresql://USER:PASSWORD@HOST/DATABASE` or `sqlite:///FILE`; the study's own SQLite
            file where left out.

    Raises:
        InputError: the address cannot be understood or reached, the database was written by a newer
            quantxai, or belongs to another study.
        MissingExtra: PostgreSQL's driver is not installed.
    """
    address = _address(study, url)
    engine = _sqlite(address) if address.get_backend_name() == "sqlite" else _postgresql(address)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                lock_enrolment(connection)
            migrate(connection, study.digest, described(engine))
    except DBAPIError as error:
        engine.dispose()
        raise InputError(f"{described(engine)} cannot be opened: {_first_line(error)}") from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def described(engine: Engine) -> str:
    """Return how messages name a database: never with its password."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return f"the database '{url.database}'"
    return f"the database '{url.database}' on {url.host or 'this machine'}"


@contextmanager
def transaction(engine: Engine, *, write: bool = True) -> Iterator[Session]:
    """Do everything in the block or nothing of it.

    SQLite takes its write lock at the beginning, so what the block reads stays true until its end.

    Args:
        engine: of `open_database`.
        write: False for a block that only reads, which then waits for nobody.

    Raises:
        StudyError: kind unavailable: the database is away, locked or full, and nothing was changed.
    """
    try:
        bound = engine if write else engine.execution_options(**{_READING: True})
        turns = _WRITERS.get(engine) if write else None
        waited = turns.turn(_WAIT_SECONDS) if turns else nullcontext()
        with waited, Session(bound, expire_on_commit=False) as session, session.begin():
            yield session
    except (DBAPIError, DisconnectionError, PoolTimeout, TimeoutError) as error:
        if isinstance(error, _OURS):
            raise
        _LOG.error("%s: %s", described(engine), _first_line(error))
        raise StudyError(
            "unavailable", f"{described(engine)} is not available: {_first_line(error)}"
        ) from None


def lock_enrolment(connection: Connection) -> None:
    """Let one transaction at a time give out places; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ENROLMENT})


def forget(engine: Engine) -> None:
    """Overwrite what was deleted wherever SQLite still keeps it; where others read, it does so later by itself."""
    if engine.dialect.name == "sqlite":
        # Done for those who come after: what fails here undoes nothing and is nothing to be told of.
        with suppress(SQLAlchemyError, sqlite3.Error), engine.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute("PRAGMA busy_timeout = 100")  # nobody is kept waiting for it
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raw.execute(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000}")


def _address(study: Study, url: str | None) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(study.path.resolve() / "study.sqlite"))
    try:
        address = make_url(url)
        backend = address.get_backend_name()
    except (ArgumentError, ValueError, NoSuchModuleError):
        raise InputError(
            "the database's address cannot be understood. It looks like "
            "postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE"
        ) from None
    if backend in ("postgres", "postgresql"):
        if find_spec("psycopg") is None:
            raise MissingExtra("psycopg", "postgres", "a study on PostgreSQL")
        return address.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not address.database:
        raise InputError(f"a study's database is SQLite (sqlite:///FILE) or PostgreSQL, not {backend}")
    return address.set(drivername="sqlite")


def _sqlite(address: URL) -> Engine:
    with suppress(OSError):  # told when it is opened
        # Not for everyone on the machine to read; SQLite's other files get the same mode.
        os.close(os.open(address.database or "", os.O_CREAT | os.O_WRONLY, 0o600))
    file = str(address.database)

    def connect() -> sqlite3.Connection:
        # Of a file that has gone no empty one is made in its place.
        return sqlite3.connect(f"file:{quote(file)}?mode=rw", uri=True, check_same_thread=False)

    # As many connections as a server has threads: readers wait for nobody, and writers for their turn.
    engine = create_engine(
        address, creator=connect, hide_parameters=True, pool_size=40, pool_timeout=_WAIT_SECONDS
    )
    _WRITERS[engine] = Turns()

    @event.listens_for(engine, "checkout")
    def _taken(_connection: Any, record: Any, _proxy: Any) -> None:
        # A connection to a file that was moved or removed would go on writing, to nowhere.
        if record.info["file"] != _identity(file):
            raise DisconnectionError(f"{file} is not the file that was opened")

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        record.info["file"] = _identity(file)
        connection.isolation_level = None  # the driver opens no transactions by itself
        for pragma in (
            f"busy_timeout = {_WAIT_SECONDS * 1000}",
            "journal_mode = WAL",
            "synchronous = FULL",  # an acknowledged answer survives a power cut
            "foreign_keys = ON",
            "secure_delete = ON",  # a withdrawn participant's words are overwritten
        ):
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "begin", _begin)

    return engine


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _begin(connection: Connection) -> None:
    """Begin a transaction, a writing one as soon as other processes let go of the file.

    SQLite by itself sleeps for up to 100 ms between tries, longer than most transactions take: a process
    would hardly ever find the file free while another is busy.
    """
    if connection.get_execution_options().get(_READING, False):
        connection.exec_driver_sql("BEGIN")
        return
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA busy_timeout = 2")
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            break
        except OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the rest says more exactly why
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
    raw.execute(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000}")


def _postgresql(address: URL) -> Engine:
    # A server that restarts is noticed before a connection is used; one that is gone, within seconds.
    return create_engine(
        address,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        pool_timeout=_WAIT_SECONDS,
        connect_args={"connect_timeout": 5, "tcp_user_timeout": _WAIT_SECONDS * 1000},
    )


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
