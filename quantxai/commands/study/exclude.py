"""`quantxai study exclude` and `include`: a participant's ratings set aside by hand, and taken in again."""

from __future__ import annotations

from typing import Annotated

import typer

from quantxai.commands.present import presented, print_json
from quantxai.commands.study.opening import Database, Directory, opened

__all__ = ["exclude", "include"]

Number = Annotated[
    int, typer.Argument(metavar="PARTICIPANT", help="Their number, as quantxai study status lists it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


@presented
def exclude(
    study: Directory,
    participant: Number,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why: kept on record, exported and reported.")],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Set a participant's ratings aside, with the reason.

    Nothing is deleted: the analysis lists who was set aside and why, their place is given to somebody else, and
    quantxai study include takes it back. The rules of study.toml ([exclusion]) are applied by the
    analysis and need no command.

    Example: quantxai study exclude study 7 --reason "told us that the page was broken"
    """
    with opened(study, database) as (_, engine):
        from userstudy import operation

        operation.exclude(engine, participant, reason)
    if as_json:
        print_json({"study": str(study), "participant": participant, "excluded": True, "reason": reason})
    else:
        typer.echo(
            f"Participant {participant} is set aside. Take it back with: quantxai study include {study} {participant}"
        )


@presented
def include(study: Directory, participant: Number, database: Database = None, as_json: Json = False) -> None:
    """Take a participant in again who was set aside by hand; both stay on record.

    Example: quantxai study include study 7
    """
    with opened(study, database) as (_, engine):
        from userstudy import operation

        operation.include(engine, participant)
    if as_json:
        print_json({"study": str(study), "participant": participant, "excluded": False})
    else:
        typer.echo(f"Participant {participant} is taken in again.")
