"""SQL over a run directory: `quantxai query RUN "select ..."`.

Six views, held in memory; nothing a query does reaches the run, or any other file:

- `rows`: what the explainers saw; one row per variant, data set and item, columns of all explainers
- `measurements`: variant, explainer, dataset, item, "group", scorer, metric, value
- `findings`: the comparison with the parent, and of variants that the configuration contrasts
- `trends`: one row per method, data set and metric: whether it follows the bits
- `replicated`: quantizers over several calibration seeds
- `variants`: one row per variant: what was asked for, and its receipt

`group` is a word of SQL, so the column is written `"group"`.
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from quantxai.errors import InputError
from quantxai.records import Finding, ReplicatedFinding, Trend
from quantxai.store import Store
from quantxai.tables import rows_to_table

__all__ = ["query", "render", "views"]

_CELL_WIDTH = 60
"""Longest text shown in one cell of `--format table`, characters; json and csv never cut."""


def views(store: Store) -> dict[str, pa.Table]:
    """Return the tables a query can ask, by name."""
    return {
        "rows": store.row_table(),
        "measurements": store.measurement_table(),
        "findings": rows_to_table(store.findings(), Finding),
        "trends": rows_to_table(store.trends(), Trend),
        "replicated": rows_to_table(store.replicated(), ReplicatedFinding),
        "variants": _variants(store),
    }


def query(run_path: str | Path, sql: str) -> pa.Table:
    """Return the answer to a DuckDB query over a run's views.

    Args:
        run_path: the run directory.
        sql: DuckDB SQL; see the module for the views.

    Raises:
        RunError: it is no run directory.
        InputError: DuckDB refused the query; the message lists views and columns.
    """
    tables = views(Store.open(run_path))
    with duckdb.connect(":memory:") as connection:
        for name, table in tables.items():
            connection.register(name, table)
        # No files, no network, no Python variables of this process, and no way to undo that.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            result = connection.sql(sql) if sql.strip() else None
            return _distinct(result.to_arrow_table()) if result is not None else pa.table({})
        except duckdb.Error as error:
            known = "\n".join(f"  {name}: {', '.join(table.column_names)}" for name, table in tables.items())
            raise InputError(
                f'the query failed: {error}\nViews and columns ("group" needs quotes):\n{known}'
            ) from None


def _distinct(table: pa.Table) -> pa.Table:
    """Return a table whose columns have different names: a join may give a name twice."""
    names: list[str] = []
    for name in table.column_names:
        copies = (f"{name}_{number}" for number in itertools.count(2))
        names.append(next(copy for copy in itertools.chain([name], copies) if copy not in names))
    return table.rename_columns(names)


def _variants(store: Store) -> pa.Table:
    """Return one row per variant: the manifest's entry and the receipt, nested values as JSON text."""
    receipts = store.receipts()
    records = [{**receipts.get(str(entry["name"]), {}), **entry} for entry in store.manifest.variants]
    names = ["name", *dict.fromkeys(key for record in records for key in record if key != "name")]
    return pa.table({name: _column([record.get(name) for record in records]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Return plain values as they are, and a column that holds anything else as JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        return pa.array([float(value) if float in kinds and value is not None else value for value in values])
    return pa.array(
        [value if value is None or isinstance(value, str) else json.dumps(value) for value in values],
        pa.string(),
    )


def render(table: pa.Table, fmt: Literal["table", "json", "csv"] = "table") -> str:
    """Return a table as text, without a final newline.

    Args:
        table: any Arrow table.
        fmt: `table` for reading (long texts cut), `json` for a list of objects, `csv` with a header;
            a missing value is empty in `table` and `csv`, null in `json`.

    Raises:
        InputError: another format.
    """
    if fmt == "json":
        return json.dumps([_plain(row) for row in table.to_pylist()], indent=1, ensure_ascii=False)
    rows = [[_text(value) for value in row.values()] for row in table.to_pylist()]
    if fmt == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([table.column_names, *rows])
        return stream.getvalue().removesuffix("\n")
    if fmt == "table":
        return _aligned(table, rows)
    raise InputError(f"unknown format '{fmt}'. Available: table, json, csv.")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _text(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _aligned(table: pa.Table, rows: list[list[str]]) -> str:
    """Return rows in columns, numbers to the right, one line each."""
    numeric = [_is_number(field.type) for field in table.schema]
    lines = [[_short(cell) for cell in line] for line in [table.column_names, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    aligned = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    if not widths:
        aligned = []
    count = f"({len(rows)} row{'' if len(rows) == 1 else 's'})"
    return "\n".join([*aligned, count])


def _short(text: str) -> str:
    # A generated text may hold anything: escape control characters, which could drive a terminal.
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    return text if len(text) <= _CELL_WIDTH else text[: _CELL_WIDTH - 1] + "…"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
