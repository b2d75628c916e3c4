"""What participants go by elsewhere; only keyed hashes of it are stored, apart from their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from userstudy.database.models import Identity, Participant
from userstudy.errors import StudyError
from userstudy.tokens import keyed_hash

__all__ = ["Name", "Prolific", "known", "names"]


class Prolific(NamedTuple):
    """Who a participant is on Prolific, as its link says; stored as keyed hashes only."""

    participant: str
    """PROLIFIC_PID"""
    study: str
    """STUDY_ID"""
    session: str
    """SESSION_ID: who knows it may resume."""


class Name(NamedTuple):
    """What somebody is known by: keyed hashes, as in the table of identities."""

    kind: str
    """prolific, or page: made by the page that sent the consent."""
    hash: str
    session_hash: str | None


def names(secret: bytes, identity: Prolific | None, key: str) -> list[Name]:
    """Return what a person goes by, hashed.

    Args:
        secret: the study's key.
        identity: on Prolific, if they come from there.
        key: of the page that sent the consent; empty where it has none.

    Raises:
        StudyError: kind link_invalid: the link from Prolific lacks the person or the session.
    """
    found = []
    if key:
        found.append(Name("page", keyed_hash(secret, "page", key), None))
    if identity is not None:
        if not (identity.participant and identity.session):
            raise StudyError("link_invalid", "the link lacks PROLIFIC_PID or SESSION_ID")
        person = keyed_hash(secret, "prolific-participant", identity.participant)
        visit = keyed_hash(secret, "prolific-session", f"{identity.study}\0{identity.session}")
        found.append(Name("prolific", person, visit))
    return found


def known(session: Session, names: Sequence[Name]) -> Participant | None:
    """Return whose session it is that goes by one of the names, None for somebody new.

    Raises:
        StudyError: kind already_took_part: the person is known, under another session.
    """
    for name in names:
        wanted = select(Identity).where(Identity.kind == name.kind, Identity.hash == name.hash)
        identity = session.scalar(wanted)
        if identity is not None:
            if identity.session_hash != name.session_hash:
                raise StudyError("already_took_part")
            return session.get_one(Participant, identity.participant_id)
    return None
