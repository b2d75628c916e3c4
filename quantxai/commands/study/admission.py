"""`quantxai study open`, `pause` and `close`: whether a study takes participants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from quantxai.commands.present import presented, print_json
from quantxai.commands.study.opening import Database, Directory, opened

__all__ = ["close", "open_", "pause"]

Json = Annotated[bool, typer.Option("--json", help="Print what is now the case as JSON.")]
_MEANS = {
    "open": "New participants are let in.",
    "paused": "Nobody new is let in; those who have begun can go on.",
    "closed": "Nobody is let in and nobody can go on; finished participants still see their code.",
}


@presented
def pause(study: Directory, database: Database = None, as_json: Json = False) -> None:
    """Let nobody new in; those who have begun can go on.

    Works while the study is served, at once. Take it back with: quantxai study open STUDY

    Example: quantxai study pause study
    """
    _set(study, database, "paused", as_json)


@presented
def open_(study: Directory, database: Database = None, as_json: Json = False) -> None:
    """Let participants in again after a pause, or after the study was closed.

    A new study is open.

    Example: quantxai study open study
    """
    _set(study, database, "open", as_json)


@presented
def close(study: Directory, database: Database = None, as_json: Json = False) -> None:
    """End the collection: nobody is let in and nobody can go on.

    What was answered is kept, finished participants still see their completion code, and everyone can
    still withdraw.

    Example: quantxai study close study
    """
    _set(study, database, "closed", as_json)


def _set(
    study: Path, database: str | None, status: Literal["open", "paused", "closed"], as_json: bool
) -> None:
    with opened(study, database) as (found, engine):
        from userstudy.operation import set_admission

        changed = set_admission(found, engine, status)
    if as_json:
        print_json({"study": str(study), "admission": status, "changed": changed})
    else:
        typer.echo(f"The study is {status}{'' if changed else ' already'}. {_MEANS[status]}")
