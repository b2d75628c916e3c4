"""Who may take part, on which form: places are given out one at a time."""

from __future__ import annotations

import secrets
from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from userstudy.database.models import Admission, Event, Exclusion, Participant, Trial
from userstudy.errors import StudyError
from userstudy.order import order
from userstudy.study import Study

__all__ = [
    "abandoned_before",
    "admission",
    "admit",
    "newcomer",
    "noted_every",
    "place_left",
    "release_abandoned",
    "taken",
]


def admission(session: Session) -> str:
    """Return open, paused or closed."""
    latest = select(Admission.status).order_by(Admission.id.desc()).limit(1)
    return session.execute(latest).scalar_one()


def noted_every(study: Study) -> timedelta:
    """Return how exactly it is noted when somebody was there last: not at every answer."""
    return timedelta(minutes=min(1, study.settings.recruitment.abandoned_after_minutes / 10))


def abandoned_before(study: Study, now: datetime) -> datetime:
    """Return since when an active participant must have been there to keep their place."""
    silence = timedelta(minutes=study.settings.recruitment.abandoned_after_minutes)
    return now - silence - noted_every(study)


def release_abandoned(session: Session, study: Study, now: datetime) -> None:
    """Take the places of sessions that have been silent for too long."""
    abandoned = (Participant.status == "active") & (Participant.seen_at < abandoned_before(study, now))
    released = session.scalars(
        update(Participant).where(abandoned).values(status="released").returning(Participant.id),
        execution_options={"synchronize_session": False},
    )
    session.add_all(Event(participant_id=i, kind="released", detail="", at=now) for i in released.all())


def taken(session: Session, kind: str) -> Counter[int]:
    """Return places taken by form: completed sessions not excluded by hand, and active ones."""
    excluded = exists().where(Exclusion.participant_id == Participant.id, Exclusion.revoked_at.is_(None))
    counted = Participant.status.in_(("active", "completed")) & ~excluded & (Participant.kind == kind)
    rows = session.execute(select(Participant.form, func.count()).where(counted).group_by(Participant.form))
    return Counter(dict(rows.tuples().all()))


def place_left(session: Session, study: Study, kind: str) -> bool:
    """Whether one more may take part; those who only preview always may."""
    return kind == "preview" or taken(session, kind).total() < study.settings.recruitment.participants


def newcomer(kind: str, language: str, device: str, now: datetime) -> Participant:
    """Return somebody who has just given consent, without a form yet."""
    return Participant(
        key=secrets.token_urlsafe(16),  # 128 bits
        kind=kind,
        language=language,
        seed=secrets.randbits(31),
        status="active",
        stage="instructions",
        position=0,
        check_failures=0,
        device=device or None,
        consented_at=now,
        seen_at=now,
    )


def admit(session: Session, study: Study, participant: Participant, now: datetime) -> None:
    """Give a new participant the form that fewest have, and their pages in an order of their own.

    Raises:
        StudyError: the study is paused, closed or full.
    """
    status = admission(session)
    if status != "open" and participant.kind != "preview":
        raise StudyError("study_paused" if status == "paused" else "study_closed")
    release_abandoned(session, study, now)
    if not place_left(session, study, participant.kind):
        raise StudyError("study_full")
    counts = taken(session, participant.kind)
    fewest = min(counts[form.id] for form in study.design.forms)
    form = secrets.choice([form for form in study.design.forms if counts[form.id] == fewest])
    participant.form = form.id
    session.add(participant)
    session.flush()
    for position, planned in enumerate(order(form, participant.seed)):
        session.add(
            Trial(
                participant_id=participant.id,
                position=position,
                kind=planned.kind,
                stimuli=list(planned.stimuli),
                seconds=0.0,
            )
        )
