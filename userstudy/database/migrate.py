"""Bringing a database up to date, and keeping other studies' answers apart."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, select

from quantxai.errors import InputError
from userstudy.clock import now
from userstudy.database.models import Admission, Base

__all__ = ["configuration", "migrate"]


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for commands on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(connection: Connection, digest: str, described: str) -> None:
    """Create or update the tables, and open the study where that is new.

    Runs in the caller's transaction, whose lock makes several processes that start at once wait.

    Args:
        connection: within a transaction that holds the lock.
        digest: `Study.digest`, which a database keeps.
        described: how messages name the database.

    Raises:
        InputError: the database is of a newer quantxai, of another program or of another study.
    """
    config = configuration(connection)
    revision = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise InputError(
            f"{described} was written by a newer quantxai (its tables are of revision {revision}). "
            "Update quantxai, or name another database with --database."
        )
    if revision is None and set(inspect(connection).get_table_names()) & set(Base.metadata.tables):
        raise InputError(
            f"{described} holds tables of another program under the same names. Name an empty database with --database."
        )
    command.upgrade(config, "head")
    latest = select(Admission.digest).order_by(Admission.id.desc()).limit(1)
    kept = connection.execute(latest).scalar_one_or_none()
    if kept is None:
        connection.execute(insert(Admission).values(status="open", digest=digest, at=now()))
    elif kept != digest:
        raise InputError(
            f"{described} holds the answers to other material than material.json and design.json of this study. "
            "Put the files back as they were, or name another database with --database."
        )
