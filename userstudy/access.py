"""From a token to the participant whose it is, where their session may go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from userstudy.database.engine import lock_enrolment
from userstudy.database.models import Event, Participant
from userstudy.enrolment import admission, place_left, release_abandoned
from userstudy.errors import StudyError
from userstudy.study import Study
from userstudy.tokens import sign, verify

__all__ = ["Access"]

_PURPOSE = "participant"
_SEEN = timedelta(minutes=1)  # how exactly it is noted when somebody was there last


class Access:
    """Finds participants by their tokens.

    Args:
        study: whose key signs tokens.
        clock: says what time it is, UTC without a zone.

    All methods raise StudyError, link_expired or link_invalid, where a token is not one of ours.
    """

    def __init__(self, study: Study, clock: Callable[[], datetime]) -> None:
        self._study = study
        self._clock = clock

    def token(self, participant: Participant) -> str:
        """Return a token for a participant."""
        return sign(self._study.secret, _PURPOSE, participant.key)

    def find(self, session: Session, token: str, *, lock: bool = False) -> Participant:
        """Return the participant, in a transaction that changes them with their row locked."""
        days = self._study.settings.recruitment.link_valid_days
        key = verify(self._study.secret, _PURPOSE, token, days * 24 * 3600)
        wanted = select(Participant).where(Participant.key == key)
        if lock:
            wanted = wanted.with_for_update().execution_options(populate_existing=True)
        participant = session.scalar(wanted)
        if participant is None:
            raise StudyError("link_invalid")
        return participant

    def current(self, session: Session, token: str) -> Participant | None:
        """Return the participant to be shown as they are, None where `go_on` has something to note first.

        Raises:
            StudyError: withdrawn, screened_out, study_closed.
        """
        participant = self.find(session, token)
        _refuse(session, participant)
        seen = participant.seen_at
        fresh = participant.status == "active" and seen is not None and self._clock() - seen < _SEEN
        return participant if fresh or participant.status == "completed" else None

    def go_on(self, session: Session, token: str) -> Participant:
        """Return the participant with their row locked, seen now; one released has their place back.

        Raises:
            StudyError: withdrawn, screened_out, study_closed, or released: their place is somebody else's.
        """
        released = self.find(session, token).status == "released"
        if released:
            # Before the row's lock, in the order enrolment takes them, so that neither waits for the other.
            lock_enrolment(session.connection())
        participant = self.find(session, token, lock=True)
        _refuse(session, participant)
        time = self._clock()
        if participant.status == "released":
            release_abandoned(session, self._study, time)
            if not released or not place_left(session, self._study, participant.kind):
                raise StudyError("released")
            participant.status = "active"
            session.add(Event(participant_id=participant.id, kind="returned", detail="", at=time))
        if participant.status == "active":
            participant.seen_at = time
        return participant


def _refuse(session: Session, participant: Participant) -> None:
    if participant.status == "withdrawn":
        raise StudyError("withdrawn")
    if participant.status == "screened_out":
        raise StudyError("screened_out")
    # Whoever has finished keeps the completion code.
    closed = participant.status != "completed" and participant.kind != "preview"
    if closed and admission(session) == "closed":
        raise StudyError("study_closed")
