"""What may be answered, and what has been."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from userstudy.database.models import Answer, Trial
from userstudy.errors import StudyError
from userstudy.settings import Question

__all__ = ["LONGEST_TEXT", "checked_key", "checked_seconds", "checked_value", "progress"]

LONGEST_TEXT = 5000
"""Characters of a free-text answer."""
_LONGEST_VISIT = 3600.0  # seconds: nobody reads a page for longer, whatever the browser says
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def progress(session: Session, participant_id: int) -> list[tuple[list[str], dict[str, str]]]:
    """Return of each of a participant's pages what it shows and the latest answers given on it."""
    pages = session.execute(
        select(Trial.id, Trial.stimuli).where(Trial.participant_id == participant_id).order_by(Trial.position)
    ).all()
    given = session.execute(
        select(Answer.trial_id, Answer.question, Answer.value)
        .where(Answer.participant_id == participant_id)
        .order_by(Answer.id)
    )
    answers: dict[int, dict[str, str]] = {trial: {} for trial, _ in pages}
    for trial, question, value in given:
        answers[trial][question] = value
    return [(stimuli, answers[trial]) for trial, stimuli in pages]


def checked_value(question: Question, value: object, labels: Sequence[str]) -> str:
    """Return an answer as it is stored.

    Args:
        question: what was asked.
        value: what came from the page.
        labels: choices of a label question.

    Raises:
        StudyError: kind invalid_answer: the question has no such answer.
    """
    if not isinstance(value, str):
        raise StudyError("invalid_answer", f"{question.id}: an answer is text")
    if question.kind == "text":
        if len(value) > LONGEST_TEXT:
            raise StudyError("invalid_answer", f"{question.id}: longer than {LONGEST_TEXT} characters")
        # Databases refuse these characters, and nobody can see them.
        return _CONTROL.sub("\ufffd", value)
    allowed: Sequence[str]
    if question.kind == "likert":
        allowed = [str(point) for point in range(1, question.points + 1)]
    elif question.kind == "pairwise":
        allowed = ("left", "right", "same")
    else:
        allowed = labels
    if value not in allowed:
        raise StudyError("invalid_answer", f"{question.id}: not one of its answers")
    return value


def checked_key(key: object) -> str:
    """Return the name a page gave an answer, by which a second sending is known.

    Raises:
        StudyError: kind invalid_answer: not 1 to 64 letters, digits, or one of - _ . :
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise StudyError("invalid_answer", "an answer's key is 1 to 64 letters, digits, or one of - _ . :")
    return key


def checked_seconds(seconds: object) -> float:
    """Return a visit's length in seconds, at most an hour.

    Raises:
        StudyError: kind invalid_answer: no length of time.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise StudyError("invalid_answer", "seconds is a number")
    if math.isnan(seconds) or seconds < 0:
        raise StudyError("invalid_answer", "seconds cannot be negative")
    return float(min(seconds, _LONGEST_VISIT))
