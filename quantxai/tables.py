"""Records as Arrow tables: the stored columns follow from a record's annotations."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pandas as pd
import pyarrow as pa

from quantxai.errors import InputError
from quantxai.records import Record

__all__ = ["row_schema", "rows_to_table", "stack", "table_to_rows", "to_frame"]

_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}
_R = TypeVar("_R", bound=Record)


def row_schema(row_class: type[Record]) -> pa.Schema:
    """Return the Arrow schema that a record's annotations ask for.

    Columns may be str, int, float, bool, a Literal of one of them, a list or tuple of them, and any
    of these or None.

    Args:
        row_class: usually a subclass of `quantxai.records.Row`.

    Raises:
        InputError: a field has another type.

    Example:
        >>> from quantxai.records import Row
        >>> row_schema(Row).names
        ['item', 'group']
    """
    fields = []
    for name, field in row_class.model_fields.items():
        try:
            kind, nullable = _arrow_type(field.annotation)
        except TypeError:
            raise InputError(
                f"field '{name}' of {row_class.__name__} has the type {field.annotation}, which cannot be "
                "stored. Use str, int, float, bool, a list or tuple of them, or any of these or None."
            ) from None
        fields.append(pa.field(name, kind, nullable=nullable))
    return pa.schema(fields)


def _arrow_type(annotation: Any) -> tuple[pa.DataType, bool]:
    """Return (Arrow type, may be null) of an annotation, or raise TypeError."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) != 1:
            raise TypeError
        return _arrow_type(inner[0])[0], len(inner) < len(args)
    if origin is Literal:
        (kind,) = {type(arg) for arg in args}
        return _SCALARS[kind], False
    if origin in (list, tuple):
        kinds = {arg for arg in args if arg is not Ellipsis}
        if len(kinds) != 1:
            raise TypeError
        element, nullable = _arrow_type(kinds.pop())
        return pa.list_(pa.field("element", element, nullable=nullable)), False
    if annotation not in _SCALARS:
        raise TypeError
    return _SCALARS[annotation], False


def rows_to_table(rows: Iterable[Record], row_class: type[Record]) -> pa.Table:
    """Return the rows as a table with `row_schema(row_class)`; no rows give an empty table."""
    schema = row_schema(row_class)
    values = [row.model_dump() for row in rows]
    columns = [
        pa.array([value[name] for value in values], type=schema.field(name).type) for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def table_to_rows(table: pa.Table, row_class: type[_R]) -> list[_R]:
    """Return the table's rows as records: the inverse of `rows_to_table`."""
    return [row_class.model_validate(value) for value in table.to_pylist()]


def stack(tables: Iterable[pa.Table]) -> pa.Table:
    """Put tables on top of each other, matching columns by name; a missing column is null.

    Where two tables disagree about a column's type beyond a harmless promotion, the column becomes
    text (lists as their Python literal), so that no explainer can make another's rows unreadable.
    """
    parts = list(tables)
    if not parts:
        return pa.table({})
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    kinds: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, found in kinds.items() if len(found) > 1}
    return pa.concat_tables([_as_text(part, mixed) for part in parts], promote_options="permissive")


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name in names:
            texts = [None if value is None else str(value) for value in table.column(name).to_pylist()]
            table = table.set_column(index, pa.field(name, pa.string()), pa.array(texts, pa.string()))
    return table


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a DataFrame in which whole numbers and booleans stay so beside missing values."""
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=nullable.get)
