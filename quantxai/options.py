"""What can be named in a configuration and what it can be told, read off the methods' own fields."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from quantxai import registry
from quantxai.errors import InputError
from quantxai.methods import Method, Scorer
from quantxai.records import Record

__all__ = ["Option", "describe", "options", "toml_value"]

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


def describe(kind: registry.Kind) -> list[dict[str, Any]]:
    """Return every registered method of a kind, as plain data: name, summary, origin, traits, options.

    A method that cannot be imported is listed with `usable` false and the reason as its summary.
    """
    found = []
    for name in registry.names(kind):
        facts: dict[str, Any] = {"name": name, "distribution": registry.distribution(kind, name)}
        try:
            method: type[Method] = registry.method(kind, name)
        except InputError as error:
            found.append({**facts, "summary": str(error), "usable": False, "options": []})
            continue
        facts |= {"summary": method.summary, "usable": True, "version": method.version}
        found.append({**facts, **_traits(method), "options": [o.model_dump() for o in options(method)]})
    return found


def _traits(method: type[Method]) -> dict[str, Any]:
    names = ("packages", "calibrated", "tasks", "needs", "explainers")
    values = {name: getattr(method, name) for name in names if hasattr(method, name)}
    traits = {name: sorted(v) if isinstance(v, frozenset) else v for name, v in values.items()}
    if issubclass(method, Scorer):
        traits["metrics"] = [metric.model_dump() for metric in method.metrics]
    return traits


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
