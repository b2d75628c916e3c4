"""Running a study: who is let in, and whose ratings are set aside."""

from __future__ import annotations

from typing import Literal, get_args
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from quantxai.errors import InputError, UnknownName
from userstudy.access import Access
from userstudy.clock import now
from userstudy.database.engine import forget, lock_enrolment, transaction
from userstudy.database.models import Admission, Exclusion, Participant
from userstudy.enrolment import admission
from userstudy.errors import StudyError
from userstudy.leaving import erase
from userstudy.study import Study

__all__ = [
    "ADMISSIONS",
    "AdmissionStatus",
    "admission_status",
    "exclude",
    "include",
    "set_admission",
    "withdraw",
]

AdmissionStatus = Literal["open", "paused", "closed"]
ADMISSIONS: tuple[str, ...] = get_args(AdmissionStatus)
_LONGEST_REASON = 500  # characters


def admission_status(engine: Engine) -> str:
    """Return whether the study takes participants: open, paused or closed.

    Raises:
        StudyError: kind unavailable: the database cannot be used.
    """
    with transaction(engine, write=False) as session:
        return admission(session)


def set_admission(study: Study, engine: Engine, status: AdmissionStatus) -> bool:
    """Open the study, pause it (nobody new comes in, others go on) or close it (nobody goes on).

    Args:
        study: of which the database holds the answers.
        engine: of `open_database`.
        status: open, paused or closed.

    Returns:
        Whether that changed anything; every change is on record.

    Raises:
        UnknownName: there is no such status.
        StudyError: kind unavailable: the database cannot be used.
    """
    if status not in ADMISSIONS:
        raise UnknownName("admission", status, ADMISSIONS)
    with transaction(engine) as session:
        lock_enrolment(session.connection())
        if admission(session) == status:
            return False
        session.add(Admission(status=status, digest=study.digest, at=now()))
    return True


def exclude(engine: Engine, participant: int, reason: str) -> None:
    """Set a participant's ratings aside: their place is given to somebody else. `include` takes it back.

    Args:
        engine: of `open_database`.
        participant: their number.
        reason: on record, exported and reported.

    Raises:
        InputError: no reason, no such participant, or one set aside already.
        StudyError: kind unavailable: the database cannot be used.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > _LONGEST_REASON:
        raise InputError(
            f"give the reason in 1 to {_LONGEST_REASON} characters: it is on record and reported"
        )
    with transaction(engine) as session:
        if _standing(session, participant) is not None:
            raise InputError(
                f"participant {participant} is set aside already; quantxai study include takes it back"
            )
        session.add(Exclusion(participant_id=participant, reason=reason, at=now()))


def include(engine: Engine, participant: int) -> None:
    """Take an exclusion by hand back; it stays on record.

    Raises:
        InputError: no such participant, or one that is not set aside.
        StudyError: kind unavailable: the database cannot be used.
    """
    with transaction(engine) as session:
        standing = _standing(session, participant)
        if standing is None:
            raise InputError(f"participant {participant} is not set aside by hand")
        standing.revoked_at = now()


def withdraw(study: Study, engine: Engine, participant: str) -> int:
    """Delete all that a participant has given, on their behalf; what remains is that somebody has withdrawn.

    Args:
        study: whose key has signed the links.
        engine: of `open_database`.
        participant: their number, or their own link, also one that has run out.

    Returns:
        Their number.

    Raises:
        InputError: no such participant or link, or they have withdrawn.
        StudyError: unavailable: the database cannot be used.
    """
    token = parse_qs(urlsplit(participant).query).get("t", [participant])[0]
    with transaction(engine) as session:
        number = int(participant) if participant.isdecimal() else _of_link(study, session, token)
        _standing(session, number)
        erase(session, session.get_one(Participant, number), now())
    forget(engine)
    return number


def _of_link(study: Study, session: Session, token: str) -> int:
    """The number of whom this link was given to."""
    try:
        return Access(study, now).of_old(session, token).id
    except StudyError as error:
        if error.kind != "link_invalid":
            raise
        raise InputError(
            "this is neither a participant's number nor a link of this study. Give the whole link, as the "
            "participant has it, or the number, which is in: quantxai study status"
        ) from None


def _standing(session: Session, participant: int) -> Exclusion | None:
    """The exclusion in force, the participant's row locked."""
    known = select(Participant).where(Participant.id == participant).with_for_update()
    found = session.scalar(known) if 0 < participant < 2**31 else None
    if found is None or found.status == "withdrawn":
        raise InputError(
            f"there is no participant {participant}, or they have withdrawn. Numbers are in: quantxai study status"
        )
    wanted = select(Exclusion).where(Exclusion.participant_id == participant, Exclusion.revoked_at.is_(None))
    return session.scalar(wanted)
