"""What the columns of exported tables mean, as JSON for programs and Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from userstudy.ratings import COLUMNS, DESCRIBED

__all__ = [
    "HISTORY",
    "IDENTITIES",
    "PARTICIPANTS",
    "STIMULI",
    "TEXTS",
    "codebook_json",
    "codebook_markdown",
]

PARTICIPANTS: dict[str, str] = {
    "participant": "number, the one in the ratings",
    "kind": "human or simulated",
    "status": "active, completed, screened_out, released or withdrawn; of the last nothing else is left",
    "language": "of the page",
    "device": "phone or desktop",
    "form": "form id: which variant's text of each source item they see",
    "stage": "how far they came: instructions, check, rating or debrief",
    "position": "the page shown last, counted from 0",
    "check_failures": "failed tries at the comprehension check",
    "consented_at": "UTC",
    "seen_at": "UTC, the last sign of life before the end, up to a minute too early: not noted at every answer",
    "ended_at": "UTC, when they finished or left for good",
    "minutes": "from consent to the end, breaks included",
    "seconds": "sum over rating pages of the time a page was visible",
    "excluded": "why they are set aside by hand; empty where not",
}
IDENTITIES: dict[str, str] = {
    "code": "the completion code they were given",
    "identity_kind": "the recruiting platform",
    "identity_hash": "their id there, as HMAC-SHA256 under the study's key",
    "session_hash": "their session there, the same way",
}
"""Columns of the participants that lead to a person for whoever has the key or the platform's records."""
STIMULI: dict[str, str] = {
    "stimulus": "id, the one in the ratings",
    **{name: COLUMNS[name] for name in DESCRIBED},
    "answer": "what the variant itself says, the right answer to a label question",
    "removed": "what was taken out of the texts, separated by semicolons",
}
TEXTS: dict[str, str] = {"texts": "what was shown, as JSON: a list of name and text in the order of reading"}
HISTORY: dict[str, str] = {
    "participant": "number, the one in the ratings",
    "position": "of the page among the participant's pages, from 0",
    "kind": "rating, repeat or attention",
    "question": "question id",
    "answer": "as given; the last one to a question counts",
    "at": "UTC",
}


def codebook_json(tables: Mapping[str, Mapping[str, str]], notes: Sequence[str] = ()) -> bytes:
    """Return the codebook as JSON: tables with their columns, and what holds for all of them."""
    document = {"tables": {name: dict(columns) for name, columns in tables.items()}, "notes": list(notes)}
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def codebook_markdown(tables: Mapping[str, Mapping[str, str]], notes: Sequence[str] = ()) -> bytes:
    """Return the codebook as Markdown."""
    parts = ["# Codebook", *notes]
    for name, columns in tables.items():
        rows = [f"| `{column}` | {text} |" for column, text in columns.items()]
        parts.append("\n".join([f"## {name}", "", "| column | meaning |", "|---|---|", *rows]))
    return ("\n\n".join(parts) + "\n").encode()
