"""Whether two runs hold the same texts, to the character."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from quantxai.records import Record
from quantxai.store import Store

__all__ = ["TextChange", "TextCount", "compare_texts"]

_PLACE = ("variant", "explainer", "dataset")


class TextCount(Record):
    """How many of one variant's texts are another in run B."""

    variant: str
    explainer: str
    dataset: str
    items: int = Field(description="Items in both runs.")
    different: int = Field(description="Items of which some text differs in at least one character.")


class TextChange(Record):
    """One text that differs."""

    variant: str
    explainer: str
    dataset: str
    item: str
    column: str = Field(description="What it is, as the explainer stores it: edited, completion.")
    a: str | None
    b: str | None


def compare_texts(a: Store, b: Store) -> tuple[list[TextCount], list[TextChange]]:
    """Return how many items' texts differ, and those that do.

    Only variants, explainers and data sets that are planned in both runs, and items that both have.

    Raises:
        CorruptCell: what is stored does not match its checksum.
    """
    counts, changes = [], []
    places = [dict.fromkeys((k.variant, k.explainer, k.dataset) for k in s.manifest.cells) for s in (a, b)]
    for variant, explainer, dataset in (place for place in places[0] if place in places[1]):
        rows = [_by_item(store, variant, explainer, dataset) for store in (a, b)]
        common = [item for item in rows[0] if item in rows[1]]
        if not common:
            continue
        place = {"variant": variant, "explainer": explainer, "dataset": dataset}
        found = [
            TextChange(
                **place, item=item, column=column, a=rows[0][item].get(column), b=rows[1][item].get(column)
            )
            for item in common
            for column in dict.fromkeys([*rows[0][item], *rows[1][item]])
            if rows[0][item].get(column) != rows[1][item].get(column)
        ]
        different = len({change.item for change in found})
        counts.append(TextCount(**place, items=len(common), different=different))
        changes += found
    return counts, changes


def _by_item(store: Store, variant: str, explainer: str, dataset: str) -> dict[str, dict[str, str | None]]:
    """Return an explainer's texts by item and column; a list of texts has a line each."""
    table = store.row_table(explainer, dataset, variant)
    found: dict[str, dict[str, str | None]] = {}
    for row in table.to_pylist():
        texts = {key: _as_text(value) for key, value in row.items() if key not in (*_PLACE, "item", "group")}
        found[row["item"]] = {key: text for key, text in texts.items() if text is not None}
    return found


def _as_text(value: Any) -> str | None:
    """Return a text or a list of texts as one text; None for anything else, such as numbers."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None
