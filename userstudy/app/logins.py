"""Who is at the admin page: signed sessions, and a limit on guessing that all processes share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

from sqlalchemy import Engine, delete, exists, func, select

from quantxai.errors import QuantxaiError
from userstudy import password
from userstudy.app.limits import address_group
from userstudy.clock import now
from userstudy.database.engine import transaction
from userstudy.database.models import Attempt
from userstudy.errors import StudyError
from userstudy.study import Study
from userstudy.tokens import keyed_hash, sign, verify

__all__ = ["TRIES", "WINDOW", "Logins", "TooManyTries", "Visit"]

WINDOW = timedelta(minutes=15)
TRIES = 5
"""Wrong passwords from one address within the window."""
_TRIES_OF_ALL = 100
"""The same from all addresses together, against guessing from many."""
_VALID = timedelta(hours=8)
_SESSION, _VISIT = "admin-session", "admin-visit"
_LOGIN, _LOGOUT = "admin-login:", "admin-logout:"


class TooManyTries(QuantxaiError):
    """Passwords were guessed too often; nothing is looked at before the window has passed."""


@dataclass(frozen=True)
class Visit:
    """A browser at the admin page.

    Args:
        id: drawn at random, anew when it signs in.
        signed_in: whether it has given the password.
        cookie: what the browser keeps.
        form: what its forms must send along, so that no other site can.
    """

    id: str
    signed_in: bool
    cookie: str
    form: str


class Logins:
    """Signs in and out.

    Args:
        study: whose admin page it is.
        engine: its database.
        clock: says what time it is, UTC without a zone.
    """

    def __init__(self, study: Study, engine: Engine, clock: Callable[[], datetime] = now) -> None:
        self._study = study
        self._engine = engine
        self._clock = clock
        self._hashing = Lock()  # one at a time: each takes 64 MiB

    def visit(self, cookie: str) -> Visit:
        """Return whose cookie it is, a new visitor where it is nobody's.

        Raises:
            StudyError: the database cannot be reached.
        """
        for purpose in (_SESSION, _VISIT):
            try:
                value = verify(self._study.secret, purpose, cookie, _VALID.total_seconds())
            except StudyError:
                continue
            identifier, _, of = value.partition(":")
            if purpose == _VISIT:
                return self._made(identifier, None, cookie)
            if of == password.version(self._study) and not self._signed_out(identifier):
                return self._made(identifier, of, cookie)
        return self._made(secrets.token_hex(16), None)

    def sign_in(self, given: str, address: str) -> Visit | None:
        """Return a new session, None where the password is wrong.

        Raises:
            TooManyTries: there were too many wrong ones.
            StudyError: the database cannot be reached.
        """
        what = _LOGIN + keyed_hash(self._study.secret, "address", address_group(address))[:16]
        attempt = self._count(what)
        with self._hashing:
            right = password.matches(self._study, given)
        if not right:
            return None
        with transaction(self._engine) as session:
            session.execute(delete(Attempt).where(Attempt.id == attempt))
        return self._made(secrets.token_hex(16), password.version(self._study))

    def sign_out(self, visit: Visit) -> None:
        """End a session, in every process and for whoever has a copy of its cookie."""
        with transaction(self._engine) as session:
            session.add(Attempt(what=_LOGOUT + visit.id, at=self._clock()))

    def _count(self, what: str) -> int:
        """Note an attempt before the password is looked at, so that none slips by at the same moment."""
        now = self._clock()
        with transaction(self._engine) as session:
            session.execute(
                delete(Attempt).where(Attempt.at < now - 2 * _VALID, Attempt.what.like("admin-%"))
            )
            attempt = Attempt(what=what, at=now)
            session.add(attempt)
        recent = select(func.count()).select_from(Attempt).where(Attempt.at > now - WINDOW)
        with transaction(self._engine) as session:
            here = session.scalar(recent.where(Attempt.what == what)) or 0
            everywhere = session.scalar(recent.where(Attempt.what.like(f"{_LOGIN}%"))) or 0
            refused = here > TRIES or everywhere > _TRIES_OF_ALL
            if refused:
                # Not counted: whoever waits for the window to pass may try once too early.
                session.execute(delete(Attempt).where(Attempt.id == attempt.id))
        if refused:
            raise TooManyTries(f"more than {TRIES} wrong passwords within {WINDOW.seconds // 60} minutes")
        return attempt.id

    def _signed_out(self, identifier: str) -> bool:
        with transaction(self._engine, write=False) as session:
            return bool(session.scalar(select(exists().where(Attempt.what == _LOGOUT + identifier))))

    def _made(self, identifier: str, of: str | None, cookie: str = "") -> Visit:
        secret = self._study.secret
        if not cookie:
            value = identifier if of is None else f"{identifier}:{of}"
            cookie = sign(secret, _VISIT if of is None else _SESSION, value)
        return Visit(identifier, of is not None, cookie, keyed_hash(secret, "admin-form", identifier))
