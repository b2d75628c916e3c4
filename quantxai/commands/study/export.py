"""`quantxai study export`: the tables of a study, and the study for another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantxai.commands.present import presented, print_json
from quantxai.commands.study.opening import Database, Directory, opened

__all__ = ["export"]

_FORMATS = ("csv", "parquet")


@presented
def export(
    study: Directory,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
    fmt: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(_FORMATS),
            autocompletion=lambda: _FORMATS,
            help="Of the tables. In CSV, texts that a spreadsheet would take for a formula begin with an apostrophe.",
        ),
    ] = "csv",
    identifiers: Annotated[
        bool,
        typer.Option("--identifiers", help="Add completion codes and the keyed hashes of platform ids."),
    ] = False,
    with_text: Annotated[bool, typer.Option("--with-text", help="Add what the stimuli say.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Add every answer, those replaced by later ones included.")
    ] = False,
    potato: Annotated[
        bool, typer.Option("--potato", help="Add the study as a project of the annotation tool Potato.")
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Simulated participants instead of people.")
    ] = False,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files written as JSON.")] = False,
) -> None:
    """Write ratings, participants and stimuli as tables.

    One answer a row, one participant a row, one stimulus a row, and a codebook that says what every column
    means. Nothing that leads to a person is written unless asked for. For data to be published, take the
    data-package that quantxai study analyze writes.

    Example: quantxai study export study --out tables
    """
    from quantxai.errors import UnknownName

    if fmt not in _FORMATS:
        raise UnknownName("format", fmt, _FORMATS)
    with opened(study, database) as (found, engine):
        from userstudy.export import ExportOptions, write_export

        options = ExportOptions(
            format=fmt,  # type: ignore[arg-type]
            kind="simulated" if simulated else None,
            identifiers=identifiers,
            texts=with_text,
            history=history,
            potato=potato,
        )
        written = write_export(found, engine, out, options)
    if as_json:
        print_json({"study": str(study), "written": [str(file) for file in written]})
    else:
        typer.echo("\n".join(f"wrote {file}" for file in written))
