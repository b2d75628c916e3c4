"""From a token to the participant whose it is, where their session may go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from userstudy.database.engine import lock_enrolment
from userstudy.database.models import Event, Participant
from userstudy.enrolment import admission, noted_every, place_left, release_abandoned
from userstudy.errors import StudyError
from userstudy.study import Study
from userstudy.tokens import sign, verify

__all__ = ["Access"]

_PURPOSE = "participant"
_FOR_GOOD = 1e10  # seconds, about 300 years


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
        return _owner(session, self._key(token), lock=lock)

    def of_old(self, session: Session, token: str) -> Participant:
        """Return the participant of a token that may have run out."""
        return _owner(session, verify(self._study.secret, _PURPOSE, token, _FOR_GOOD))

    def current(self, session: Session, token: str) -> Participant | None:
        """Return the participant to be shown as they are, None where `go_on` has something to note first.

        Raises:
            StudyError: withdrawn, screened_out, study_closed.
        """
        participant = self.find(session, token)
        _refuse(session, participant)
        noted = participant.status == "active" and not self._due(participant)
        return participant if noted or participant.status == "completed" else None

    def go_on(self, session: Session, token: str) -> Participant:
        """Return the participant with their row locked, seen now; one released has their place back.

        Raises:
            StudyError: withdrawn, screened_out, study_closed, or released: their place is somebody else's.
        """
        status = select(Participant.status).where(Participant.key == self._key(token))
        released = session.scalar(status) == "released"
        if released:
            # Before the row's lock, in the order enrolment takes them, so that neither waits for the other.
            lock_enrolment(session.connection())
        participant = self.find(session, token, lock=True)
        _refuse(session, participant)
        if participant.status == "released":
            # Without the lock it was released this very moment, for somebody who takes the place.
            if not released or not self._return(session, participant):
                raise StudyError("released")
        elif participant.status == "active" and self._due(participant):
            participant.seen_at = self._clock()
        return participant

    def _return(self, session: Session, participant: Participant) -> bool:
        """Give a released participant a place again, if there is one."""
        time = self._clock()
        release_abandoned(session, self._study, time)
        if not place_left(session, self._study, participant.kind):
            return False
        participant.status, participant.seen_at = "active", time
        session.add(Event(participant_id=participant.id, kind="returned", detail="", at=time))
        return True

    def _due(self, participant: Participant) -> bool:
        return participant.seen_at is None or self._clock() - participant.seen_at >= noted_every(self._study)

    def _key(self, token: str) -> str:
        days = self._study.settings.recruitment.link_valid_days
        return verify(self._study.secret, _PURPOSE, token, days * 24 * 3600)


def _owner(session: Session, key: str, *, lock: bool = False) -> Participant:
    wanted = select(Participant).where(Participant.key == key)
    participant = session.scalar(wanted.with_for_update() if lock else wanted)
    if participant is None:
        raise StudyError("link_invalid")
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
