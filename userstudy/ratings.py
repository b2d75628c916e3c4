"""Ratings as one tidy table, one row an answer: what analysis, agreement and exports read."""

from __future__ import annotations

__all__ = ["COLUMNS"]

COLUMNS: dict[str, str] = {
    "participant": "number, from 1",
    "form": "form id",
    "status": "of the session: active, completed, screened_out, released",
    "language": "of the page",
    "device": "phone or desktop",
    "position": "of the page among the participant's pages, from 0",
    "kind": "rating, repeat or attention",
    "stimulus": "id; of a pair, the one that is not the reference's; of an attention check, its id",
    "item": "source item: EXPLAINER/DATASET/ID",
    "group": "source items of one group are not independent",
    "explainer": "what was explained how",
    "dataset": "where the item comes from",
    "variant": "which variant's text",
    "label": "the item's gold label",
    "outcome": "how the parent fared on the item",
    "question": "question id",
    "scale": "likert, pairwise, label or text",
    "value": "number: likert 1 to points; label 1 right, 0 wrong; pairwise 1 variant preferred, 0 neither, "
    "-1 reference preferred; attention 1 passed, 0 failed; null for text",
    "text": "the answer as given",
    "seconds": "on the page, while it was visible",
    "at": "UTC, when the answer came",
    "excluded": "why its participant is set aside by hand; empty where not",
}
