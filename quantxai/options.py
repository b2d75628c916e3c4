"""What a method or a table of the configuration can be told, read off its fields."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from quantxai.records import Record

__all__ = ["Option", "options"]

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "table",
    "array": "list",
}


class Option(Record):
    """One key that may be set."""

    name: str
    required: bool = Field(description="Whether it has no default.")
    default: Any = Field(None, description="null where there is none, or where nothing is the default.")
    values: str = Field(description="What it may be: a type with its bounds, or the allowed values.")
    help: str

    @property
    def shown(self) -> str:
        """The default as TOML writes it; `not set` where nothing is the default."""
        return "not set" if self.default is None else toml_value(self.default)


def options(record: type[Record]) -> list[Option]:
    """Return a record's fields, in order, as what a configuration file may set."""
    schema = record.model_json_schema()
    required = schema.get("required", [])
    return [
        Option(
            name=name,
            required=name in required,
            default=field.get("default"),
            values=_values(field, schema.get("$defs", {})),
            help=record.model_fields[name].description or "",
        )
        for name, field in schema.get("properties", {}).items()
    ]


def toml_value(value: Any) -> str:
    """Return a plain value as TOML writes it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _values(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        return _values(definitions.get(field["$ref"].rpartition("/")[2], {}), definitions)
    parts = [part for part in field.get("anyOf", []) if part.get("type") != "null"]
    if parts:
        return " or ".join(_values(part, definitions) for part in parts)
    if "enum" in field:
        return ", ".join(map(toml_value, field["enum"]))
    if "const" in field:
        return toml_value(field["const"])
    kind = _TYPES.get(str(field.get("type")), "any value")
    bounds = [f"{word} {field[key]:g}" for key, word in _BOUNDS.items() if key in field]
    return f"{kind}, {' and '.join(bounds)}" if bounds else kind
