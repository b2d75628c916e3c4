"""Ratings of a study by simulated raters, as the tidy table that the analysis reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from userstudy.order import order
from userstudy.raters import Population, Shown, Truth
from userstudy.ratings import COLUMNS, DESCRIBED
from userstudy.records import Design, Planned, Stimulus, rated_stimulus
from userstudy.settings import StudySettings

__all__ = ["Simulator"]

_AT = pd.Timestamp("2026-01-01")


class _Page(NamedTuple):
    """One page of one participant, in their order."""

    participant: int
    position: int
    progress: float
    """Share of the pages before it."""
    after: float
    """Share of the pages, it included."""
    planned: Planned
    stimulus: Stimulus | None
    """Of a pair, the one that is not the reference's; of an attention check, None."""


class Simulator:
    """Draws whole studies: the same pages for the same participants, raters and items anew each time.

    Args:
        settings: what is asked.
        stimuli: what is shown.
        design: to whom.
        participants: how many begin; forms are used in turn.
    """

    def __init__(
        self,
        settings: StudySettings,
        stimuli: Mapping[str, Stimulus],
        design: Design,
        participants: int,
    ) -> None:
        self._stimuli, self._design, self._participants = stimuli, design, participants
        self.variants = (design.reference, *(v for v in design.variants if v != design.reference))
        self.questions = tuple(q for q in settings.questions if q.numeric)
        self._checks = {check.id: check for check in design.attention}
        items = {item: i for i, item in enumerate(sorted({s.item for s in stimuli.values()}))}
        self._items = len(items)
        pages = list(self._pages())
        rated = [page for page in pages if page.stimulus]
        self._shown = Shown(
            np.array([page.participant for page in rated]),
            np.array([items[page.stimulus.item] for page in rated if page.stimulus]),
            np.array([self.variants.index(page.stimulus.variant) for page in rated if page.stimulus]),
            np.array([page.progress for page in rated]),
            np.array([1 / max(2, len(page.stimulus.labels)) for page in rated if page.stimulus]),
        )
        self._person = np.array([page.participant for page in pages])
        self._after = np.array([page.after for page in pages])
        self._is_rated = np.array([page.stimulus is not None for page in pages])
        rows = [(number, *row) for number, page in enumerate(pages) for row in self._rows(page)]
        self._page_of = np.array([row[0] for row in rows])
        self._question_of = np.array([row[1] for row in rows])
        self._constant = pd.DataFrame([row[2] for row in rows])

    def draw(self, truth: Truth, rng: np.random.Generator) -> pd.DataFrame:
        """Return one study's ratings.

        Args:
            truth: what is true of the raters.
            rng: source of randomness.

        Returns:
            The columns of `userstudy.ratings.COLUMNS`; `text` is empty, and free text is left out.
        """
        raters = Population(truth, self.questions, self.variants, self._participants, self._items, rng)
        values = np.empty((len(self._person), len(self.questions)))
        values[self._is_rated] = raters.answers(self._shown)
        values[~self._is_rated] = raters.attention(self._person[~self._is_rated])[:, None]
        table = self._constant.copy(deep=False)
        table["value"] = values[self._page_of, self._question_of]
        table["seconds"] = raters.seconds(self._person)[self._page_of]
        person = self._person[self._page_of]
        table["status"] = np.where(raters.stay < 1, "released", "completed")[person]
        seen = self._after[self._page_of] <= raters.stay[person]
        return table.loc[seen, list(COLUMNS)].reset_index(drop=True)

    def _pages(self) -> Iterator[_Page]:
        forms = self._design.forms
        for participant in range(self._participants):
            trials = order(forms[participant % len(forms)], seed=participant)
            for position, planned in enumerate(trials):
                shown = [self._stimuli[s] for s in planned.stimuli if s in self._stimuli]
                progress, after = position / len(trials), (position + 1) / len(trials)
                rated = None if planned.kind == "attention" else rated_stimulus(shown, self._design.reference)
                yield _Page(participant, position, progress, after, planned, rated)

    def _rows(self, page: _Page) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the place of each answer's question, and the columns that no draw changes."""
        check = self._checks.get(page.planned.stimuli[0]) if page.stimulus is None else None
        described = page.stimulus or (self._stimuli[check.stimulus] if check else None)
        for place, question in enumerate(self.questions):
            if check and question.id != check.question:
                continue
            row = dict.fromkeys(COLUMNS, "") | {
                "participant": page.participant + 1,
                "form": page.participant % len(self._design.forms),
                "language": "en",
                "device": "desktop",
                "position": page.position,
                "kind": page.planned.kind,
                "stimulus": check.id if check else page.planned.stimuli[0],
                "question": question.id,
                "scale": question.kind,
                "at": _AT + pd.Timedelta(minutes=page.position),
            }
            if described:
                row |= {name: getattr(described, name) for name in DESCRIBED}
            if page.stimulus:
                row["stimulus"] = page.stimulus.id
            yield place, row
