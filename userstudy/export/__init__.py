"""What leaves a study: its tables with a codebook, the same anonymised, and the study as a Potato project.

`write_export` writes into a directory:

```
ratings.csv        an answer a row: userstudy.ratings.COLUMNS
participants.csv   who took part, without what leads to a person unless asked
stimuli.csv        which stimulus is which variant's
history.csv        every answer, replaced ones included, if asked
codebook.json      what every column means; codebook.md says the same for people
potato/            a project of the annotation tool Potato, if asked; potato-key.csv says which page is whose
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from sqlalchemy import Engine

from quantxai.errors import InputError
from quantxai.files import write_atomically
from userstudy.export.cells import read_csv, to_csv
from userstudy.export.codebook import (
    HISTORY,
    IDENTITIES,
    PARTICIPANTS,
    STIMULI,
    TEXTS,
    codebook_json,
    codebook_markdown,
)
from userstudy.export.package import data_package
from userstudy.export.potato import KEY, potato_project
from userstudy.export.tables import history, participants, stimuli
from userstudy.ratings import COLUMNS, ratings
from userstudy.study import Study

__all__ = [
    "ExportOptions",
    "data_package",
    "potato_project",
    "read_csv",
    "to_csv",
    "write_export",
]

_GUARDED = (
    "In CSV files a text that begins with =, +, -, @, a tab, a line's end or an apostrophe has an apostrophe "
    "before it, so that no spreadsheet takes it for a formula: take off one leading apostrophe of a text to "
    "have it as it was. Numbers, and Parquet files, are as they are. Times are UTC."
)


class ExportOptions(NamedTuple):
    """What to export beside the ratings, participants and stimuli.

    Attributes:
        format: of the tables.
        kind: human or simulated participants; null for humans where there are any.
        identifiers: keyed hashes and completion codes of participants.
        texts: what the stimuli say.
        history: answers that were replaced by later ones.
        potato: a Potato project.
    """

    format: Literal["csv", "parquet"] = "csv"
    kind: Literal["human", "simulated"] | None = None
    identifiers: bool = False
    texts: bool = False
    history: bool = False
    potato: bool = False


def write_export(study: Study, engine: Engine, out: Path, options: ExportOptions) -> list[Path]:
    """Write a study's tables into a directory, replacing an earlier export.

    Args:
        study: what was asked of whom.
        engine: its database.
        out: the directory; made where there is none.
        options: which tables, and how.

    Returns:
        The files written.

    Raises:
        InputError: `out` is a file.
        StudyError: kind unavailable: the database cannot be used.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file. Name a directory: --out DIR")
    tables: dict[str, pd.DataFrame] = {
        "ratings": ratings(study, engine, options.kind),
        "participants": participants(engine, options.kind, identifiers=options.identifiers),
        "stimuli": stimuli(study, texts=options.texts),
    }
    if options.history:
        tables["history"] = history(engine, options.kind)
    known = COLUMNS | PARTICIPANTS | IDENTITIES
    described = {
        name: {column: known[column] for column in tables[name]} for name in ("ratings", "participants")
    }
    described["stimuli"] = {column: (STIMULI | TEXTS)[column] for column in tables["stimuli"]}
    if options.history:
        described["history"] = HISTORY
    contents = {f"{name}.{options.format}": _written(table, options.format) for name, table in tables.items()}
    if options.potato:
        contents |= potato_project(study)
        described["potato-key"] = KEY
    notes = [_GUARDED]
    contents["codebook.json"] = codebook_json(described, notes)
    contents["codebook.md"] = codebook_markdown(described, notes)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def _written(table: pd.DataFrame, kind: str) -> bytes:
    if kind == "csv":
        return to_csv(table)
    found: bytes = table.to_parquet(index=False, compression="zstd")
    return found
