"""Ratings as one tidy table, one row an answer: what analysis, agreement and exports read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from userstudy.records import Attention, Stimulus, rated_stimulus
from userstudy.settings import Question
from userstudy.study import Study

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["COLUMNS", "DESCRIBED", "ratings"]

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

DESCRIBED = ("item", "group", "explainer", "dataset", "variant", "label", "outcome")
"""Columns that say what an answer is about: fields of `Stimulus`."""
_CHOSEN = {"left": 0, "right": 1}


def ratings(study: Study, engine: Engine, kind: str | None = None) -> pd.DataFrame:
    """Return the latest answer to each question, by participant, position and question.

    Left out are answers that were replaced or emptied, those of withdrawn participants and of previews, what the
    material no longer has, and of an attention check all questions but the one whose answer it prescribes.

    Args:
        study: what was asked about what.
        engine: of `open_database`.
        kind: human or simulated participants, which are never mixed: humans where there are any, unless
            said otherwise.

    Returns:
        The columns of `COLUMNS`, a row an answer.

    Raises:
        StudyError: kind unavailable: the database cannot be used.
    """
    from userstudy.database.engine import transaction
    from userstudy.database.queries import answered, reasons, whose

    with transaction(engine, write=False) as session:
        chosen = kind or whose(session)
        rows = answered(session, chosen)
        excluded = reasons(session)
    reader = _Reader(study)
    places = {question.id: place for place, question in enumerate(study.settings.questions)}
    found = [
        {**row, "excluded": excluded.get(row["participant"], "")}
        for given in rows
        for row in reader.rows(given)
    ]
    found.sort(key=lambda row: (row["participant"], row["position"], places[row["question"]]))
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return table.astype({"value": float, "seconds": float, "at": "datetime64[us]"})


class _Reader:
    """Turns answers as stored into rows of the table.

    Args:
        study: what they are about.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._checks = {check.id: check for check in study.design.attention}
        self._questions = {question.id: question for question in study.settings.questions}

    def rows(self, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the row of an answer, nothing where it is none of the table's."""
        shown: list[str] = given.pop("stimuli")
        question = self._questions.get(given["question"])
        check = self._checks.get(shown[0])
        about = self._about([check.stimulus] if check else shown)
        if question is None or about is None or (check and check.question != question.id):
            return
        value = _passed(check, given["text"]) if check else self._value(question, given["text"], shown, about)
        yield {
            **given,
            **{name: getattr(about, name) for name in DESCRIBED},
            "stimulus": check.id if check else about.id,
            "scale": question.kind,
            "value": value,
        }

    def _about(self, shown: list[str]) -> Stimulus | None:
        """The stimulus an answer is about, None where the material lacks one of those shown."""
        known = self._study.stimuli
        if not all(stimulus in known for stimulus in shown):
            return None
        return rated_stimulus([known[stimulus] for stimulus in shown], self._study.design.reference)

    def _value(self, question: Question, text: str, shown: list[str], about: Stimulus) -> float | None:
        if question.kind == "likert":
            return float(text) if text.isdigit() else None
        if question.kind == "label":
            return None if about.answer is None else float(text == about.answer)
        if question.kind == "pairwise":
            if text == "same":
                return 0.0
            side = _CHOSEN.get(text)
            return None if side is None else 1.0 if shown[side] == about.id else -1.0
        return None


def _passed(check: Attention, text: str) -> float:
    return float(text == check.answer)
