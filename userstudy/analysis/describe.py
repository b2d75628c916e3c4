"""The answers to each question about each variant, described."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from userstudy.analysis.comparison import interval
from userstudy.analysis.crossed import Clusters, regress
from userstudy.analysis.results import Descriptive
from userstudy.settings import Question, StudySettings

__all__ = ["answer_values", "descriptives"]


def descriptives(
    rated: pd.DataFrame, settings: StudySettings, variants: Sequence[str]
) -> Iterator[Descriptive]:
    """Yield the description of every question and variant, also of those without answers.

    The interval of the mean is for other participants and other source items: `crossed.regress` on a
    constant.

    Args:
        rated: first answers with a value, of those who are kept.
        settings: the study's.
        variants: the reference first; pairs have none about it.
    """
    for question in settings.questions:
        if not question.numeric:
            continue
        for variant in variants[1:] if question.kind == "pairwise" else variants:
            own = rated[(rated["question"] == question.id) & (rated["variant"] == variant)]
            yield _descriptive(own, question, variant, settings.analysis.alpha)


def _descriptive(own: pd.DataFrame, question: Question, variant: str, alpha: float) -> Descriptive:
    values = own["value"].to_numpy(float)
    low, high, notes = None, None, []
    if len(values):
        constant = np.ones((len(values), 1))
        found = regress(values[:, None], constant, Clusters.of(own), fixed=False)[0][0]
        if found is not None:
            low, high = interval(found, alpha)
            smallest, largest = _range(question)
            low, high = (None if end is None else min(max(end, smallest), largest) for end in (low, high))
        if low is None:
            notes.append(
                "No interval: one participant, one group of source items, or answers that do not vary."
            )
    else:
        notes.append("No answers.")
    return Descriptive(
        question=question.id,
        scale=question.kind,
        variant=variant,
        n=len(own),
        participants=own["participant"].nunique(),
        items=own["item"].nunique(),
        mean=float(values.mean()) if len(values) else None,
        ci_low=low,
        ci_high=high,
        sd=float(values.std(ddof=1)) if len(values) > 1 else None,
        median=float(np.median(values)) if len(values) else None,
        counts={name: int((values == value).sum()) for name, value in answer_values(question).items()},
        notes=tuple(notes),
    )


def _range(question: Question) -> tuple[float, float]:
    return {"likert": (1.0, float(question.points)), "label": (0.0, 1.0)}.get(question.kind, (-1.0, 1.0))


def answer_values(question: Question) -> dict[str, float]:
    """Return the possible answers in their order, with their numbers."""
    if question.kind == "likert":
        return {str(point): float(point) for point in range(1, question.points + 1)}
    return (
        {"wrong": 0.0, "right": 1.0}
        if question.kind == "label"
        else {"reference": -1.0, "same": 0.0, "variant": 1.0}
    )
