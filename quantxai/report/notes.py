"""What scorers noted about themselves beside their scores, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from quantxai.manifest import CellKey
from quantxai.report.text import count, level, listing, metric_label, significant

__all__ = ["notes"]


def notes(found: Iterable[tuple[CellKey, Mapping[str, Any]]]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Return the notes by explainer and data set, then by scorer; what all variants share is said once.

    Args:
        found: as `Store.notes` returns them.
    """
    cells = list(found)
    by_text: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}
    scored: dict[tuple[str, str, str], set[str]] = {}
    for key, of in cells:
        scorer, place = str(key.scorer), (key.explainer, key.dataset)
        scored.setdefault((*place, scorer), set()).add(key.variant)
        for name, value in of.items():
            told = by_text.setdefault(place, {}).setdefault((scorer, _sentence(name, value)), [])
            if key.variant not in told:
                told.append(key.variant)
    result: dict[tuple[str, str], dict[str, list[str]]] = {}
    for place, texts in by_text.items():
        for (scorer, text), variants in texts.items():
            shared = len(variants) == len(scored[(*place, scorer)])
            lead = "" if shared else f"{listing(variants)}: "
            result.setdefault(place, {}).setdefault(scorer, []).append(lead + text)
    return result


def _sentence(name: str, value: Any) -> str:
    label = metric_label(name)
    label = label[:1].upper() + label[1:]
    if isinstance(value, Mapping) and {"accuracy", "low", "high", "n"} <= value.keys():
        return f"{label}: {_accuracy(value)}"
    return f"{label}: {_plain(value)}."


def _accuracy(value: Mapping[str, Any]) -> str:
    """Say how often a judge is right: `judge`, if there, then accuracy with its interval."""
    what = f"{value['judge']}; its label is" if "judge" in value else "its label is"
    ends = f"{level(value['low'], 'proportion')} to {level(value['high'], 'proportion')}"
    text = (
        f"{what} the gold one for {level(value['accuracy'], 'proportion')} of {count(int(value['n']), 'text')} "
        f"(95 % interval {ends})"
    )
    return (
        f"{text}; guessing gives {level(value['chance'], 'proportion')}." if "chance" in value else f"{text}."
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{metric_label(str(key))} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return significant(value)
    return value if isinstance(value, str) else json.dumps(value)
