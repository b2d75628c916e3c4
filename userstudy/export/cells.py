"""Tables as CSV that a spreadsheet shows and does not run.

A spreadsheet takes a cell that begins with =, +, -, @, a tab or a line's end for a formula, and a participant may
write one (OWASP, CSV Injection). Such texts are written with an apostrophe before them, and so are texts that
begin with an apostrophe, so that `unguarded` gives every text back as it was. Numbers are numbers and stay.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd

__all__ = ["guarded", "read_csv", "to_csv", "unguarded"]

_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
"""The wide forms are what some spreadsheets of East Asia take for the narrow ones."""


def guarded(value: Any) -> Any:
    """Return a cell's value; a text that a spreadsheet could run with an apostrophe before it.

    Example:
        >>> guarded("=1+1"), guarded(-1.5), guarded("fine")
        ("'=1+1", -1.5, 'fine')
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_DANGEROUS) else value


def unguarded(value: Any) -> Any:
    """Return the value that `guarded` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") else value


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV, UTF-8, with a header: texts in quotation marks, numbers without, no value empty."""
    safe = table.copy()
    for name in safe.columns:
        if pd.api.types.is_bool_dtype(safe[name]) or not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = ["" if pd.isna(value) else guarded(str(value)) for value in safe[name]]
    stream = io.StringIO(newline="")
    safe.to_csv(stream, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return stream.getvalue().encode("utf-8", "replace")


def read_csv(content: bytes) -> pd.DataFrame:
    """Return the table that `to_csv` wrote, apostrophes taken off: numbers as numbers, no value as None."""
    stream = io.StringIO(content.decode(), newline="")
    header, *rows = csv.reader(stream, quoting=csv.QUOTE_NONNUMERIC)
    cells = [[None if cell == "" else unguarded(cell) for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=header)
