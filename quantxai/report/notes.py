"""What scorers noted about themselves beside their scores, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantxai.manifest import CellKey
from quantxai.report.text import count, level, metric_label, significant

__all__ = ["Note", "notes"]


_LISTED = {
    "nothing_attributed": "nothing could be attributed for {n}",
    "nothing_measured": "nothing could be measured inside for {n}",
    "nothing_asked": "could not be asked: {n}",
    "no_query_neurons": "no query neurons for {n}",
    "top_not_proven": 'the top 300 are not proven to be the best for {n} (raise survivors, or mode = "exact")',
    "neurons_above_at_its_limit": "neurons above reached the 600 kept for {n}: it may be more",
}
"""Notes that list items, alike or by reason, in words."""


@dataclass(frozen=True)
class Note:
    """What one scorer noted on one explainer and data set.

    Attributes:
        scorer: its name.
        shared: sentences that hold for all variants.
        columns: names of what differs between variants.
        lines: its values by variant, in the order of columns.
    """

    scorer: str
    shared: list[str]
    columns: list[str]
    lines: dict[str, list[str]]


def notes(found: Iterable[tuple[CellKey, Mapping[str, Any]]]) -> dict[tuple[str, str], list[Note]]:
    """Return the notes by explainer and data set.

    Args:
        found: as `Store.notes` returns them.
    """
    by_scorer: dict[tuple[str, str], dict[str, dict[str, dict[str, Any]]]] = {}
    for key, noted in found:
        place = by_scorer.setdefault((key.explainer, key.dataset), {})
        place.setdefault(str(key.scorer), {}).setdefault(key.variant, {}).update(noted)
    return {
        place: [_note(scorer, by_variant) for scorer, by_variant in scorers.items()]
        for place, scorers in by_scorer.items()
    }


def _note(scorer: str, by_variant: Mapping[str, Mapping[str, Any]]) -> Note:
    names = dict.fromkeys(name for noted in by_variant.values() for name in noted)
    shared, columns = [], []
    for name in names:
        texts = {_noted(name, noted[name]) if name in noted else None for noted in by_variant.values()}
        (text, *others) = texts
        if others:
            columns.append(name)
        else:
            shared.append(f"{_capital(str(text) if name in _LISTED else f'{metric_label(name)}: {text}')}.")
    lines = {
        variant: [_noted(name, noted[name]) if name in noted else "–" for name in columns]
        for variant, noted in by_variant.items()
    }
    return Note(scorer, shared, columns, lines if columns else {})


def _noted(name: str, value: Any) -> str:
    """Say what a note says; of listed items how many they are, why, and which."""
    if name not in _LISTED or not isinstance(value, Mapping | list | tuple):
        return _told(value)
    reasons = value if isinstance(value, Mapping) else {"": value}
    number = count(sum(len(items) for items in reasons.values()), "item")
    listed = "; ".join(
        f"{reason}: {', '.join(map(str, items))}" if reason else ", ".join(map(str, items))
        for reason, items in reasons.items()
    )
    return f"{_LISTED[name].format(n=number)} ({listed})"


def _told(value: Any) -> str:
    if isinstance(value, Mapping) and {"accuracy", "low", "high", "n"} <= value.keys():
        return _accuracy(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{metric_label(str(name))} {_told(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    if isinstance(value, float):
        return significant(value)
    return "–" if value is None else metric_label(value) if isinstance(value, str) else json.dumps(value)


def _accuracy(value: Mapping[str, Any]) -> str:
    """Say how often a judge is right: `judge`, if there, then accuracy with its interval."""
    what = f"{value['judge']}; its label is" if "judge" in value else "its label is"
    ends = f"{level(value['low'], 'proportion')} to {level(value['high'], 'proportion')}"
    text = (
        f"{what} the gold one for {level(value['accuracy'], 'proportion')} of {count(int(value['n']), 'text')} "
        f"(95 % interval {ends})"
    )
    return f"{text}; guessing gives {level(value['chance'], 'proportion')}" if "chance" in value else text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
