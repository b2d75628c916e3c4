"""Every item, what each variant made of it, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from quantxai.records import Metric
from quantxai.report.anchors import section_anchor
from quantxai.report.cells import Cell, Observed, make_cell
from quantxai.report.fields import PLACED, field_label, pairs, value
from quantxai.report.results import Compared

__all__ = ["ItemView", "Section", "item_texts", "section"]

MOST_ITEMS = 600
"""Items shown per data set; evenly spread over all of them where there are more."""
_OUTCOMES = ("own_soft_flip", "parent_soft_flip", "recall", "accuracy", "two_hop_correct")
"""Binary metrics preferred for the outcome that items are filtered by, where they exist."""

_KEYS = ("variant", "explainer", "dataset", "item", "group")

Row = dict[str, Any]


@dataclass(frozen=True)
class ItemView:
    """One item: what was asked, and a cell per variant that has a row.

    Attributes:
        id: its name.
        prompt: the text that is edited, completed or judged, line by line.
        context: what goes with it and stays.
        gold: the right label or object.
        reference: the right explanation.
        facts: further fields that are the same for every variant.
        cells: one per variant, parent first.
        truncated: whether a text was too long for the model and was cut.
    """

    id: str
    prompt: str
    context: str
    gold: str
    reference: str
    facts: Markup
    cells: list[Cell]
    truncated: bool

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
        layout: edits (original and edited text), facts (prompt, gold, completion), explanations, neurons (of
            facts), hops (two-hop questions), or other.
        outcomes: the yes/no metrics items are filtered by: scorer.metric, and what it is called here.
        variants: those that have rows, parent first.
        items: at most `MOST_ITEMS`.
        total: how many there are.
        constants: fields that are the same in all rows, name in words and value.
    """

    explainer: str
    dataset: str
    layout: str
    outcomes: dict[str, str]
    variants: list[str]
    items: list[ItemView]
    total: int
    constants: list[tuple[str, str | Markup]]

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return section_anchor(self.explainer, self.dataset)


def item_texts(rows: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str], Row]:
    """Return a row with the item's whole text by data set and item, for explainers that store none.

    Args:
        rows: those of `Store.row_table`, by explainer and data set.
    """
    found: dict[tuple[str, str], Row] = {}
    for (_, dataset), own in rows.items():
        for row in own:
            if isinstance(row.get("text"), str):
                known = {name: row[name] for name in ("text", "reference") if isinstance(row.get(name), str)}
                found.setdefault((dataset, str(row["item"])), known)
    return found


def section(
    run: Compared,
    place: tuple[str, str],
    rows: Sequence[Mapping[str, Any]],
    measurements: pd.DataFrame,
    texts: Mapping[tuple[str, str], Row],
    truncated: Collection[str],
) -> Section:
    """Return the items of one explainer on one data set.

    Args:
        run: what is the same for all.
        place: explainer and data set.
        rows: its rows, at least one.
        measurements: its measurements that have a value.
        texts: see `item_texts`.
        truncated: items whose text was cut.
    """
    items: dict[str, dict[str, Row]] = {}
    for row in rows:
        known = {name: of for name, of in row.items() if name not in _KEYS and _known(of)}
        items.setdefault(row["item"], {})[row["variant"]] = known
    own = _Section(place, items, measurements, run.variants, run.metrics)
    return own.view({item: texts[place[1], item] for item in items if (place[1], item) in texts}, truncated)


def _known(of: Any) -> bool:
    return not (of is None or (isinstance(of, float) and of != of))


class _Section:
    """The rows and measurements of one explainer on one data set."""

    def __init__(
        self,
        place: tuple[str, str],
        rows: Mapping[str, Mapping[str, Row]],
        measurements: pd.DataFrame,
        variants: Sequence[str],
        metrics: Mapping[tuple[str, str], Metric],
    ) -> None:
        self.place, self.parent = place, variants[0]
        present = {name for found in rows.values() for name in found}
        self.variants = [name for name in variants if name in present]
        self.rows = {item: {v: found[v] for v in self.variants if v in found} for item, found in rows.items()}
        self.fields = list(dict.fromkeys(n for found in rows.values() for row in found.values() for n in row))
        self.layout = _layout(set(self.fields))
        pairs_found = set(
            measurements[["scorer", "metric"]].drop_duplicates().itertuples(index=False, name=None)
        )
        names = Counter(name for _, name in pairs_found)
        # Two scorers may give one name to different things.
        self._names = {
            key: key[1] if names[key[1]] == 1 else f"{key[0]}: {key[1]}"
            for key in metrics
            if key in pairs_found
        }
        self.metrics = {name: metrics[key] for key, name in self._names.items()}
        self.values: dict[str, dict[str, dict[str, float]]] = {}
        columns = (measurements[name] for name in ("item", "variant", "scorer", "metric", "value"))
        for item, variant, scorer, metric, of in zip(*columns, strict=True):
            if (scorer, metric) in self._names:
                of_variant = self.values.setdefault(item, {}).setdefault(variant, {})
                of_variant[self._names[scorer, metric]] = float(of)

    def view(self, texts: Mapping[str, Row], truncated: Collection[str]) -> Section:
        ids = sorted(self.rows)
        most = MOST_ITEMS
        shown = ids if len(ids) <= most else [ids[i * len(ids) // most] for i in range(most)]
        binary = {key: name for key, name in self._names.items() if self.metrics[name].kind == "binary"}
        outcomes = {".".join(key): binary[key] for key in sorted(binary, key=_preference)}
        constants, common, listed = self._sorted_fields()
        first = next(iter(self.rows[ids[0]].values()))
        items = [
            self._item(item, list(outcomes.values()), common, listed, texts.get(item, {}), item in truncated)
            for item in shown
        ]
        told = [(field_label(name), value(first[name])) for name in constants]
        return Section(*self.place, self.layout, outcomes, self.variants, items, len(ids), told)

    def _sorted_fields(self) -> tuple[list[str], list[str], list[str]]:
        """Return the other fields: the same everywhere, for every variant of an item, or for none of both."""
        constants: list[str] = []
        common: list[str] = []
        listed: list[str] = []
        several = len(self.variants) > 1
        for name in self.fields:
            if name in PLACED:
                continue
            by_item = [[repr(row.get(name)) for row in found.values()] for found in self.rows.values()]
            if several and all(len(set(values)) == 1 for values in by_item):
                alike = len(by_item) > 1 and len({values[0] for values in by_item}) == 1
                (constants if alike else common).append(name)
            else:
                listed.append(name)
        return constants, common, listed

    def _item(
        self,
        item: str,
        outcomes: Sequence[str],
        common: Sequence[str],
        listed: Sequence[str],
        elsewhere: Row,
        truncated: bool,
    ) -> ItemView:
        rows = self.rows[item]
        first = next(iter(rows.values()))
        observed = Observed(
            rows, self.values.get(item, {}), self.metrics, outcomes, self.parent, self.layout, listed
        )
        asked = next(
            (str(first[name]) for name in ("original", "prompt", "two_hop_prompt", "text") if name in first),
            "",
        )
        if self.layout in ("facts", "neurons", "hops"):
            # A few-shot prompt repeats its demonstrations for every item: the last line is what is asked.
            asked = asked.strip().split("\n")[-1]
        whole = str(elsewhere.get("text", ""))
        return ItemView(
            id=item,
            prompt=asked or whole,
            context=str(first.get("context", "" if asked in ("", whole) or asked not in whole else whole)),
            gold=str(first.get("gold", "")),
            reference=str(first.get("reference", elsewhere.get("reference", ""))),
            facts=pairs(first, common),
            cells=[make_cell(observed, name) for name in rows],
            truncated=truncated,
        )


def _preference(key: tuple[str, str]) -> int:
    """Where a yes/no metric stands among the outcomes: failures last."""
    last = len(_OUTCOMES)
    return last + 1 if key[1] == "failure" else _OUTCOMES.index(key[1]) if key[1] in _OUTCOMES else last


def _layout(fields: set[str]) -> str:
    layouts = {
        "edits": {"original", "edited", "target"},
        "facts": {"prompt", "gold", "completion"},
        "explanations": {"explanation", "predicted"},
        "neurons": {"prompt", "gold", "neuron_scores"},
        "hops": {"two_hop_prompt", "bridge"},
    }
    return next((name for name, needed in layouts.items() if needed <= fields), "other")
