"""Ready questionnaires, and study.toml as it is written from one: every key explained.

A preset is a study.toml without a name and without what presets have in common, which is
`presets/common.toml`.
"""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from quantxai.errors import UnknownName
from quantxai.options import Option, options, toml_value
from quantxai.records import Record
from userstudy.settings import (
    AnalysisSettings,
    Check,
    DesignSettings,
    Exclusion,
    Question,
    Recruitment,
    StudySettings,
    Texts,
)

__all__ = ["FILL_IN", "preset", "presets", "study_toml", "unfilled"]

FILL_IN = "[FILL IN"
"""Begins what a researcher has to replace before anyone takes part."""

_WIDTH = 100
_TABLES: dict[str, type[Record]] = {
    "design": DesignSettings,
    "recruitment": Recruitment,
    "exclusion": Exclusion,
    "analysis": AnalysisSettings,
}
_HEAD = """\
# What is asked, of whom, in which words. Look at it with: quantxai study serve STUDY --preview
#
# Everything a participant reads can be one text, text = "...", or one for each language, text.en = "..." and
# text.de = "...". A key that does not exist is an error that names the nearest match. Questions, texts, recruitment,
# exclusion and analysis can be changed as they are; after a change of [design] draw the design
# again with: quantxai study draw STUDY. Once participants have begun, neither should change.
#
# Replace everything in [FILL IN: ...] before anyone takes part.
"""


def presets() -> dict[str, str]:
    """Return what each preset is for, by name."""
    folder = files("userstudy") / "presets"
    names = sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )
    return {name: str(_read(name)["summary"]) for name in names if name != "common"}


def preset(name: str) -> dict[str, Any]:
    """Return a preset as plain data: a `StudySettings` without its name.

    Raises:
        UnknownName: there is no such preset.
    """
    known = presets()
    if name not in known:
        raise UnknownName("preset", name, known)
    own, common = _read(name), _read("common")
    del own["summary"]
    return {**common, **own, "texts": {**common["texts"], **own["texts"]}}


def study_toml(settings: StudySettings) -> str:
    """Return a study.toml with every key and its explanation: loaded, it gives these settings."""
    plain = settings.model_dump(mode="json")
    entries = {option.name: option for option in options(StudySettings)}
    parts = [_HEAD, *(_setting(entries[name], plain[name]) for name in ("name", "languages"))]
    parts += [_table(name, record, plain[name]) for name, record in _TABLES.items()]
    parts.append(_entries("questions", Question, plain["questions"]))
    parts.append(_entries("check", Check, plain["check"]))
    texts = [_setting(option, plain["texts"][option.name]) for option in options(Texts)]
    parts.append("\n".join([_comment(f"---- {_about(Texts)} ----"), "[texts]", *texts]))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def unfilled(settings: StudySettings) -> list[str]:
    """Return the texts of study.toml that a researcher still has to fill in, such as `texts.contact.en`."""
    return [key for key, text in _leaves(settings.model_dump(mode="json")) if FILL_IN in text]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("userstudy") / "presets" / f"{name}.toml").read_text(encoding="utf-8"))


def _about(record: type[Record]) -> str:
    return (record.__doc__ or "").splitlines()[0]


def _table(name: str, record: type[Record], values: Mapping[str, Any]) -> str:
    lines = [_setting(option, values[option.name]) for option in options(record)]
    return "\n".join([_comment(f"---- {_about(record)} ----"), f"[{name}]", *lines])


def _entries(key: str, record: type[Record], values: list[dict[str, Any]]) -> str:
    lines = [_comment(f"---- {_about(record)} One [[{key}]] table each; its keys: ----")]
    for option in options(record):
        lead = "required" if option.required else f"default {option.shown}"
        text = f"{option.name} ({option.values}; {lead}): {option.help}"
        lines.append(textwrap.fill(text, _WIDTH, initial_indent="#   ", subsequent_indent="#       "))
    defaults = {option.name: option.default for option in options(record) if not option.required}
    for entry in values:
        kept = {k: v for k, v in entry.items() if k not in defaults or v != defaults[k]}
        lines += [f"\n[[{key}]]", *(_assigned(k, v) for k, v in kept.items())]
    if not values:
        lines.append(f"\n# [[{key}]]")
    return "\n".join(lines)


def _setting(option: Option, value: Any) -> str:
    """Explanation and assignment; commented out where nothing is the value."""
    help_text = _comment(f"{option.help} ({option.values})")
    if value is None:
        return f'{help_text}\n# {option.name} = ["..."]'
    return f"{help_text}\n{_assigned(option.name, value)}"


def _assigned(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(_assigned(f"{key}.{_bare(name)}", text) for name, text in value.items())
    if isinstance(value, str) and "\n" in value:
        return f'{key} = """\n{_multiline(value)}"""'
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return "\n".join([f"{key} = [", *(f"    {toml_value(entry)}," for entry in value), "]"])
    return f"{key} = {toml_value(value)}"


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _multiline(text: str) -> str:
    return "\n".join(
        json.dumps(line, ensure_ascii=False)[1:-1].replace('\\"', '"') for line in text.split("\n")
    ).replace('"""', '\\"\\"\\"')


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2))


def _leaves(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(key, value)]
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [leaf for name, entry in entries for leaf in _leaves(entry, f"{key}.{name}" if key else str(name))]
