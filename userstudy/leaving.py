"""How sessions end: finished, or withdrawn without a trace of what was given."""

from __future__ import annotations

import secrets
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from userstudy.database.models import Answer, Event, Exclusion, Identity, Participant, Trial

__all__ = ["complete", "erase"]

_LETTERS = "ACDEFGHJKLMNPQRTUVWXY34679"  # none that is read as another


def complete(participant: Participant, code: str, now: datetime) -> None:
    """End a session whose pages are all answered.

    Args:
        participant: changed.
        code: the study's completion code; one is drawn at random where it is empty.
        now: UTC.
    """
    participant.code = code or "".join(secrets.choice(_LETTERS) for _ in range(8))
    participant.status, participant.stage, participant.ended_at = "completed", "debrief", now


def erase(session: Session, participant: Participant, now: datetime) -> None:
    """Delete all that was given by or is known of a participant, but that somebody has withdrawn and when."""
    for table in (Answer, Trial, Event, Identity, Exclusion):
        session.execute(delete(table).where(table.participant_id == participant.id))
    participant.status, participant.ended_at = "withdrawn", now
    participant.language, participant.seed, participant.position, participant.check_failures = "", 0, 0, 0
    participant.code = participant.device = participant.consented_at = participant.seen_at = None
