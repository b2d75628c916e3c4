"""The commented configuration that `quantxai init` writes: the default sweep, every key explained."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from quantxai import registry
from quantxai.analysis import Analysis
from quantxai.config import (
    DEFAULT_EXPLAINERS,
    DEFAULT_VARIANTS,
    Calibration,
    ExplainerConfig,
    ModelConfig,
    ScorerConfig,
    SweepConfig,
    VariantConfig,
    default_scorers,
)
from quantxai.datasets import dataset_names
from quantxai.options import Option, options, toml_value
from quantxai.records import Record

__all__ = ["example_config"]

_WIDTH = 100
_TABLES: dict[str, type[Record]] = {"model": ModelConfig, "calibration": Calibration, "analysis": Analysis}
_HEAD = """\
# What a sweep compares, and how. Run it with: quantxai sweep THIS_FILE
#
# This file as it is written is the default sweep. Every key is here: what is commented out shows
# a default that need not be written, or an option that could be. A key that does not exist, or a
# value that is not allowed, is an error that names the nearest match.
"""


def example_config() -> str:
    """Return a TOML file with every key: loaded, it gives the default sweep."""
    top = [o for o in options(SweepConfig) if o.name not in {*_TABLES, "variants", "explainers", "scorers"}]
    parts = [
        _HEAD,
        "\n".join(_setting(o) for o in top),
        _table("model"),
        _table("calibration"),
        _entries("variants", "quantizer", VariantConfig, DEFAULT_VARIANTS),
        _entries("explainers", "explainer", ExplainerConfig, DEFAULT_EXPLAINERS),
        _entries("scorers", "scorer", ScorerConfig, default_scorers()),
        _table("analysis"),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _table(name: str) -> str:
    about = (_TABLES[name].__doc__ or "").splitlines()[0]
    lines = [_comment(f"---- {about} ----"), f"[{name}]", *(_setting(o) for o in options(_TABLES[name]))]
    if name == "analysis":
        lines[-1] = _comment(
            "margins: equivalence margins in place of the metrics' own, in the metric's unit, as a table:\n"
            '[analysis.margins]\n"recall.recall" = 0.05'
        )
    return "\n".join(lines)


def _setting(option: Option) -> str:
    """Explanation and assignment; commented out where nothing is the default."""
    help_text = _comment(f"{option.help} ({option.values})")
    if option.default is None:
        some = {"list": '["..."]'}.get(option.values, "4" if "number" in option.values else '"..."')
        return f"{help_text}\n# {option.name} = {some}"
    return f"{help_text}\n{option.name} = {toml_value(option.default)}"


def _entries(key: str, kind: registry.Kind, record: type[Record], defaults: Iterable[dict[str, Any]]) -> str:
    """All that an entry of one kind may hold, as comments, and the default entries."""
    own = [o for o in options(record) if o.name != "options"]
    lines = [_comment(f"---- {key}: one [[{key}]] table each ----"), _comment("Keys of every entry:")]
    lines += [_described(o, _allowed(o.name, kind)) for o in own]
    for name, method in registry.methods(kind).items():
        found = options(method)
        lines.append(_comment(f'{kind} = "{name}": {method.summary}'))
        lines += [_described(o, o.values) for o in found]
    for entry in defaults:
        lines += [f"\n[[{key}]]", *(f"{k} = {toml_value(v)}" for k, v in entry.items())]
    return "\n".join(lines)


def _allowed(name: str, kind: registry.Kind) -> str | None:
    """The names an entry's key may hold, where they are registered ones."""
    if name == kind:
        return ", ".join(map(toml_value, registry.names(kind)))
    return ", ".join(map(toml_value, dataset_names())) if name == "dataset" else None


def _described(option: Option, values: str | None) -> str:
    lead = "required" if option.required and option.name != "name" else f"default {option.shown}"
    lead = "optional" if option.name == "name" else lead
    text = f"{option.name} ({values or option.values}; {lead}): {option.help}"
    return textwrap.fill(text, _WIDTH, initial_indent="#   ", subsequent_indent="#       ")


def _comment(text: str) -> str:
    wrapped = [part for line in text.splitlines() for part in textwrap.wrap(line, _WIDTH - 2)]
    return "\n".join(f"# {line}" for line in wrapped)
