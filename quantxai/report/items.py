"""Every item, what each variant made of it, side by side and with the edits marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from quantxai.report.text import metric_label

__all__ = ["Cell", "ItemView", "Section", "marked", "sections"]

MOST_ITEMS = 600
"""Items shown per data set; evenly spread over all of them where there are more."""
_LONGEST = 400
"""Characters of a raw text or value that are shown."""
_TOKEN = re.compile(r"(?:\w+(?:['’-]\w+)*|[^\w\s])\s*")
_OUTCOMES = ("own_soft_flip", "parent_soft_flip", "recall")
"""Binary metrics preferred for the outcome that items are filtered by, where they exist."""


@dataclass(frozen=True)
class Cell:
    """What one variant made of one item.

    Attributes:
        variant: its name.
        html: the text, escaped, edits marked.
        note: a short line above it: labels, or rank and log-probability.
        outcome: yes, no, failed, or empty where nothing is known.
        changed: whether the outcome is not the parent's.
        details: further outcomes, name and yes or no.
    """

    variant: str
    html: Markup
    note: str
    outcome: str
    changed: bool
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ItemView:
    """One item: what was asked, and a cell per variant that has a row."""

    id: str
    prompt: str
    context: str
    gold: str
    cells: list[Cell]

    @property
    def by_variant(self) -> dict[str, Cell]:
        """The cells by variant."""
        return {cell.variant: cell for cell in self.cells}


@dataclass(frozen=True)
class Section:
    """The items of one explainer on one data set.

    Attributes:
        explainer: its name.
        dataset: the data set's name.
        layout: edits (original and edited text), facts (prompt, gold, completion), or other.
        outcome: the metric behind the outcomes; empty where none is binary.
        variants: those that have rows, parent first.
        items: at most `MOST_ITEMS`.
        total: how many there are.
    """

    explainer: str
    dataset: str
    layout: str
    outcome: str
    variants: list[str]
    items: list[ItemView]
    total: int


def marked(before: str, after: str) -> Markup:
    """Return `after` as HTML with what differs from `before` in <del> and <ins>, word by word.

    Example:
        >>> print(marked("the red house", "the blue house"))
        the <del>red</del> <ins>blue</ins> house
    """
    old, new = (_TOKEN.findall(text.strip()) for text in (before, after))
    matcher = difflib.SequenceMatcher(
        None, [token.strip() for token in old], [token.strip() for token in new], autojunk=False
    )
    parts: list[str] = []
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation == "equal":
            parts.append(escape("".join(new[k:m])))
            continue
        if i and k and _spaced(old[i - 1]) and not _spaced(new[k - 1]):
            parts.append(" ")
        # The space between words stays outside the marks, so that it is not underlined.
        if i < j:
            parts.append(_tagged("del", old[i:j], spaced=k < m))
        if k < m:
            parts.append(_tagged("ins", new[k:m]))
    return Markup("".join(parts))


def _tagged(tag: str, tokens: Sequence[str], *, spaced: bool = False) -> str:
    space = " " if spaced or _spaced(tokens[-1]) else ""
    return f"<{tag}>{escape(''.join(tokens).strip())}</{tag}>{space}"


def _spaced(token: str) -> bool:
    return token[-1].isspace()


def sections(
    rows: Iterable[Mapping[str, Any]],
    measurements: pd.DataFrame,
    variants: Sequence[str],
    binary: Mapping[str, None],
) -> list[Section]:
    """Return the items of every explainer and data set, in planned order.

    Args:
        rows: those of `Store.row_table`, as mappings.
        measurements: `Store.measurements`.
        variants: the parent, then the others in the manifest's order.
        binary: names of the binary metrics, in order.
    """
    parts: dict[tuple[str, str], dict[str, dict[str, dict[str, Any]]]] = {}
    for row in rows:
        known = {name: value for name, value in row.items() if _known(value)}
        items = parts.setdefault((known.pop("explainer"), known.pop("dataset")), {})
        items.setdefault(known["item"], {})[known["variant"]] = known
    found = []
    for (explainer, dataset), items in parts.items():
        own = measurements[(measurements.explainer == explainer) & (measurements.dataset == dataset)]
        found.append(_section(explainer, dataset, items, own, variants, binary))
    return found


def _section(
    explainer: str,
    dataset: str,
    rows: Mapping[str, Mapping[str, dict[str, Any]]],
    measurements: pd.DataFrame,
    variants: Sequence[str],
    binary: Mapping[str, None],
) -> Section:
    columns = {name for found in rows.values() for row in found.values() for name in row}
    layout = "other"
    if {"original", "edited"} <= columns:
        layout = "edits"
    elif {"prompt", "gold", "completion"} <= columns:
        layout = "facts"
    present = [name for name in binary if name in set(measurements.metric) and name != "failure"]
    present.sort(key=lambda name: _OUTCOMES.index(name) if name in _OUTCOMES else len(_OUTCOMES))
    outcomes = _Outcomes(measurements, present)
    ids = sorted(rows)
    shown = ids if len(ids) <= MOST_ITEMS else [ids[i * len(ids) // MOST_ITEMS] for i in range(MOST_ITEMS)]
    items = [_item(item, layout, rows[item], variants, outcomes) for item in shown]
    present_variants = {name for found in rows.values() for name in found}
    named = [name for name in variants if name in present_variants]
    return Section(explainer, dataset, layout, present[0] if present else "", named, items, len(ids))


def _known(value: Any) -> bool:
    return not (value is None or (isinstance(value, float) and value != value))


class _Outcomes:
    """The binary metrics of every variant and item; the first is the one to filter by."""

    def __init__(self, measurements: pd.DataFrame, names: list[str]) -> None:
        self.names = names
        chosen = measurements[measurements.metric.isin(names)].dropna(subset=["value"])
        keys = zip(chosen.variant, chosen.item, chosen.metric, strict=True)
        self._values = dict(zip(keys, chosen.value, strict=True))

    def of(self, variant: str, item: str, name: str) -> str:
        """Return yes, no, or empty."""
        value = self._values.get((variant, item, name))
        return "" if value is None else "yes" if value > 0.5 else "no"

    def first(self, variant: str, item: str) -> str:
        """Return the outcome that items are filtered by."""
        return self.of(variant, item, self.names[0]) if self.names else ""


def _item(
    item: str, layout: str, rows: Mapping[str, dict[str, Any]], variants: Sequence[str], outcomes: _Outcomes
) -> ItemView:
    ordered = [(name, rows[name]) for name in variants if name in rows]
    first = ordered[0][1]
    prompt = {"edits": "original", "facts": "prompt"}.get(layout, "")
    cells = []
    for name, row in ordered:
        outcome = "failed" if "failure" in row else outcomes.first(name, item)
        reference = "failed" if "failure" in first else outcomes.first(ordered[0][0], item)
        details = [(metric_label(metric), outcomes.of(name, item, metric)) for metric in outcomes.names]
        known = tuple((metric, value) for metric, value in details if value) if layout == "edits" else ()
        html, note = _RENDERERS[layout](row, first)
        cells.append(Cell(name, html, note, outcome, outcome != reference, known[:2]))
    # A few-shot prompt repeats its demonstrations for every item: the last line is what is asked.
    asked = str(first.get(prompt, "")).strip().split("\n")[-1]
    return ItemView(item, asked, str(first.get("context", "")), str(first.get("gold", "")), cells)


def _edit(row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[Markup, str]:
    labels = [str(row[name]) for name in ("predicted", "target") if name in row]
    note = " → ".join(labels)
    if "edited" not in row:
        return Markup("<q>{}</q>").format(_cut(str(row.get("raw", "")))), note
    return marked(str(row["original"]), str(row["edited"])), note


def _fact(row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[Markup, str]:
    notes = []
    if "rank" in row:
        notes.append(f"rank {row['rank']}")
    if "logprob" in row:
        notes.append(f"{row['logprob']:.2f}".replace("-", "\N{MINUS SIGN}"))
    completion = _cut(str(row.get("completion", "")).strip())
    if row is first:
        return escape(completion), " · ".join(notes)
    return marked(_cut(str(first.get("completion", "")).strip()), completion), " · ".join(notes)


def _other(row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[Markup, str]:
    pairs = [(key, value) for key, value in row.items() if key not in ("variant", "item", "group")]
    body = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(metric_label(str(key)), _value(value)) for key, value in pairs
    )
    return Markup("<dl>{}</dl>").format(body), ""


_RENDERERS = {"edits": _edit, "facts": _fact, "other": _other}


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return _cut(", ".join(_value(part) for part in value))
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
