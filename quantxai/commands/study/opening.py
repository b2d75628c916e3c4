"""A study directory and its database, for the length of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from userstudy.study import Study

__all__ = ["Database", "Directory", "opened"]

Directory = Annotated[Path, typer.Argument(metavar="STUDY", help="The study directory.")]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where the answers are, postgresql://... or sqlite:///...; the study's SQLite file if left out.",
    ),
]


@contextmanager
def opened(study: Path, database: str | None) -> Iterator[tuple[Study, Engine]]:
    """Open a study and its database.

    Raises:
        MissingExtra: what the study needs is not installed.
        InputError: there is no such study, or its database cannot be opened.
    """
    from quantxai.errors import MissingExtra

    try:
        from userstudy.database.engine import open_database
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "study", "a user study") from None
    from userstudy.study import Study

    found = Study.open(study)
    engine = open_database(found, database)
    try:
        yield found, engine
    finally:
        engine.dispose()
