"""`quantxai study withdraw`: a participant's data deleted on their behalf."""

from __future__ import annotations

from typing import Annotated

import typer

from quantxai.commands.present import presented, print_json
from quantxai.commands.study.opening import Database, Directory, opened
from quantxai.errors import InputError

__all__ = ["withdraw"]


@presented
def withdraw(
    study: Directory,
    participant: Annotated[
        str,
        typer.Argument(
            metavar="PARTICIPANT", help="Their number, or their own link, also one that has run out."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Delete all that a participant has given, who asks for it by other ways than the page.

    Whoever has a link that works withdraws on the page. What was exported, analysed or copied before is yours to
    delete.

    Example: quantxai study withdraw study 7 --yes
    """
    with opened(study, database) as (found, engine):
        from userstudy import operation

        if not yes and not typer.confirm("Delete all answers of this participant, for good?", err=True):
            raise InputError("nothing was deleted.")
        number = operation.withdraw(found, engine, participant)
    if as_json:
        print_json({"study": str(study), "participant": number, "withdrawn": True})
    else:
        typer.echo(f"All that participant {number} has given is deleted.")
