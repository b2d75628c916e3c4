"""What several readers ask of the tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from userstudy.database.models import Answer, Exclusion, Participant, Trial

__all__ = ["answered", "reasons", "whose"]


def whose(session: Session) -> str:
    """Return whose answers count: human, or simulated where no human has taken part."""
    kinds = set(session.scalars(select(Participant.kind).distinct()))
    return "simulated" if "simulated" in kinds and "human" not in kinds else "human"


def answered(session: Session, kind: str) -> list[dict[str, Any]]:
    """Return the latest answer to each question of each page, with where, when and by whom it was given."""
    latest = select(func.max(Answer.id)).group_by(Answer.trial_id, Answer.question).scalar_subquery()
    columns = select(
        Participant.id.label("participant"),
        Participant.form,
        Participant.status,
        Participant.language,
        Participant.device,
        Trial.position,
        Trial.kind,
        Trial.stimuli,
        Answer.question,
        Answer.value.label("text"),
        Trial.seconds,
        Answer.at,
    )
    rows = session.execute(
        columns.join(Trial, Answer.trial_id == Trial.id)
        .join(Participant, Answer.participant_id == Participant.id)
        .where(Answer.id.in_(latest), Answer.value != "", Participant.kind == kind)
    )
    return [dict(row) for row in rows.mappings()]


def reasons(session: Session) -> dict[int, str]:
    """Return why participants are set aside by hand, by their number."""
    rows = session.execute(
        select(Exclusion.participant_id, Exclusion.reason)
        .where(Exclusion.revoked_at.is_(None))
        .order_by(Exclusion.id)
    )
    return dict(rows.tuples().all())
