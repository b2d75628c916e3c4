"""Pydantic's reports, told to whoever wrote the configuration: where, which key, what is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from quantxai.errors import ConfigError, nearest
from quantxai.records import Record

__all__ = ["entry_name", "read_toml", "validate"]

R = TypeVar("R", bound=Record)


def entry_name(key: str, index: int) -> str:
    """Return how messages name an entry of a list of tables, counted from 1: `[[variants]] no. 2`."""
    return f"[[{key}]] no. {index + 1}"


def read_toml(path: Path, without: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Args:
        path: the file.
        without: what to do where there is none, a sentence.

    Raises:
        ConfigError: it is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. {without}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def validate(record: type[R], value: Mapping[str, Any], where: str, also: list[str] | None = None) -> R:
    """Validate one record, turning pydantic's report into one ConfigError for the reader.

    Args:
        record: what the value should be.
        value: plain data.
        where: leads every line of the message.
        also: keys that are allowed beside the record's own.
    """
    try:
        return record.model_validate(value)
    except ValidationError as error:
        lines = [_explain(record, e, where, also or []) for e in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _explain(record: type[Record], error: Any, where: str, also: list[str]) -> str:
    entry, path = _location(error["loc"])
    where = f"{where}: {entry}" if entry else where
    if error["type"] == "extra_forbidden":
        allowed = sorted([*_fields_at(record, error["loc"][:-1]), *also])
        hint = nearest(str(error["loc"][-1]), allowed)
        return f"{where}: unknown key '{path}'.{hint} Allowed: {', '.join(allowed)}."
    if error["type"] == "missing":
        return f"{where}: the key '{path}' is missing."
    if error["type"] == "literal_error":
        allowed = error["ctx"]["expected"].replace(" or ", ", ").replace("'", '"').split(", ")
        hint = _nearest(error["input"], [a.strip('"') for a in allowed])
        given = _shown(error["input"])
        return f"{where}: {path} = {given} is not allowed.{hint} Allowed: {', '.join(allowed)}."
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.partition(", unable to parse")[0]
    return f"{where}: {path} = {_shown(error['input'])}: {message}" if path else f"{where}: {message}"


def _location(parts: tuple[Any, ...]) -> tuple[str, str]:
    """Split pydantic's location into the entry of a list of tables, if any, and the key in it."""
    entry = ""
    if len(parts) > 1 and isinstance(parts[1], int):
        entry, parts = entry_name(str(parts[0]), parts[1]), parts[2:]
    return entry, "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")


def _nearest(given: Any, allowed: list[str]) -> str:
    if isinstance(given, int | float) and not isinstance(given, bool) and all(a.isdigit() for a in allowed):
        return f" Did you mean {min(allowed, key=lambda a: abs(int(a) - given))}?"
    return nearest(str(given), allowed)


def _shown(value: Any) -> str:
    text = (
        f'"{value}"'
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else repr(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(record: type[Record], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = record.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, Record)):
            return []
        record = annotation
    return list(record.model_fields)
