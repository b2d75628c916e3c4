"""Participants' sessions, from consent to completion code: all the app and simulated raters go through.

Every method is one transaction, and nothing is kept outside the database, so any number of processes can
serve one study, and one that is killed loses nothing it has acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import Session

from userstudy import enrolment
from userstudy.access import Access
from userstudy.answering import checked_key, checked_seconds, checked_value, progress
from userstudy.clock import now
from userstudy.database.engine import forget, lock_enrolment, transaction
from userstudy.database.models import Answer, Event, Identity, Participant, Trial
from userstudy.errors import StudyError
from userstudy.identities import Prolific, known, names
from userstudy.leaving import complete, erase
from userstudy.pages import Page, Pages, View
from userstudy.study import Study

__all__ = ["Page", "Prolific", "Sessions", "View"]


class Sessions:
    """The sessions of one study.

    Args:
        study: what is asked about what.
        engine: of `open_database`.
        clock: says what time it is, UTC without a zone.

    Every method that takes a token raises StudyError: link_expired or link_invalid where it is not one of
    ours, withdrawn, released, screened_out or study_closed where the session is over, and unavailable while
    the database cannot be used.
    """

    def __init__(self, study: Study, engine: Engine, clock: Callable[[], datetime] = now) -> None:
        self.study = study
        self.engine = engine
        self._clock = clock
        self._access = Access(study, clock)
        self._pages = Pages(study)

    def enrol(
        self,
        language: str,
        device: str,
        identity: Prolific | None = None,
        kind: str = "human",
        key: str = "",
    ) -> str:
        """Begin a session, consent given, and return its token; or return to the one begun before.

        Args:
            language: the participant's; the study's first where it has no such.
            device: phone or desktop.
            identity: who they are on Prolific; the same person with the same session resumes.
            kind: human, simulated or preview. Each kind has its places to itself, and previews any number.
            key: made by the page, random: the same consent sent twice begins one session.

        Raises:
            StudyError: study_full, study_paused, study_closed, already_took_part.
        """
        settings, time = self.study.settings, self._clock()
        device = device if device in ("phone", "desktop") else ""
        going_by = names(self.study.secret, identity, checked_key(key) if key else "")
        with transaction(self.engine) as session:
            lock_enrolment(session.connection())
            found = known(session, going_by)
            if found is not None:
                self._note(session, found, "resumed", device)
                return self._access.token(found)
            spoken = language if language in settings.languages else settings.languages[0]
            participant = enrolment.newcomer(kind, spoken, device, time)
            enrolment.admit(session, self.study, participant, time)
            for name in going_by:
                session.add(Identity(participant_id=participant.id, **name._asdict()))
        return self._access.token(participant)

    def view(self, token: str) -> View:
        """Return where a participant stands."""
        with transaction(self.engine, write=False) as session:
            participant = self._access.current(session, token)
            if participant is not None:
                return self._view(session, participant)
        with self._session(token) as (session, participant):
            return self._view(session, participant)

    def start_check(self, token: str) -> View:
        """Leave the instructions for the comprehension check, or for the first page where there is none."""
        with self._session(token) as (session, participant):
            if participant.stage == "instructions":
                participant.stage = "check"
                if not self.study.settings.check:
                    self._begin(session, participant)
            return self._view(session, participant)

    def check(self, token: str, answers: Sequence[int], key: str = "") -> bool:
        """Hold the answers to the comprehension check against the right ones.

        Args:
            token: the participant's.
            answers: for each question of the check the chosen option, counted from 0.
            key: made anew by the page for each attempt: sent twice it is one attempt.

        Returns:
            Whether all are right; the first page of ratings is then next.

        Raises:
            StudyError: screened_out: that was the last attempt.
        """
        checks, key = self.study.settings.check, checked_key(key) if key else ""
        with self._session(token) as (session, participant):
            if participant.stage == "instructions":
                raise StudyError("invalid_answer", "the check has not begun")
            if participant.stage != "check":
                return True  # passed before
            if len(answers) != len(checks) or not all(type(answer) is int for answer in answers):
                raise StudyError("invalid_answer", "the check needs one option for each question")
            if key and session.scalar(_failed(participant, key)) is not None:
                return False  # that attempt was counted, and the reply was lost
            passed = all(check.answer == answer for check, answer in zip(checks, answers, strict=True))
            if passed:
                self._begin(session, participant)
            else:
                participant.check_failures += 1
                given = ",".join(map(str, answers))[:100]
                self._note(session, participant, "check_failed", f"{given} {key}")
                if participant.check_failures >= self.study.settings.recruitment.check_attempts:
                    participant.status, participant.ended_at = "screened_out", self._clock()
            out = participant.status == "screened_out"
        if out:
            raise StudyError("screened_out")
        return passed

    def answer(self, token: str, position: int, question: str, value: str, key: str) -> None:
        """Store one answer; the same key is stored once, however often it is sent.

        Args:
            token: the participant's.
            position: of the page, from 0.
            question: the question's id.
            value: likert "1" to "7"; pairwise left, right or same; label: the label; text: the text.
            key: made anew by the page for each change of an answer.

        Raises:
            StudyError: invalid_answer: nothing like it was asked there; already_took_part: the session is
                finished; gone: the text is no longer there.
        """
        key = checked_key(key)
        with self._session(token) as (session, participant):
            # The participant's row is locked, so nobody stores the same key between this look and the commit.
            stored = select(Answer.id).where(Answer.participant_id == participant.id, Answer.key == key)
            if session.scalar(stored) is not None:
                return
            _rating(participant)
            trial = _trial(session, participant, position)
            if trial.shown_at is None:
                raise StudyError("invalid_answer", "the page has not been reached")
            asked = {q.id: q for q in self._pages.asked(trial.stimuli)}
            if not asked:
                raise StudyError("gone", f"the material lacks {', '.join(trial.stimuli)}")
            if not isinstance(question, str) or question not in asked:
                raise StudyError("invalid_answer", "the page has no such question")
            found = checked_value(asked[question], value, self._pages.labels(trial.stimuli))
            session.add(
                Answer(
                    participant_id=participant.id,
                    trial_id=trial.id,
                    question=question,
                    value=found,
                    key=key,
                    at=self._clock(),
                )
            )

    def turn(self, token: str, position_from: int, position_to: int, seconds: float) -> View:
        """Leave a page for another, forward only past pages with all the answers they need.

        Args:
            token: the participant's.
            position_from: the page left.
            position_to: the page to come.
            seconds: how long the page was visible this time; counted once, however often it is sent.

        Raises:
            StudyError: invalid_answer: an answer is missing, or there is no such page.
        """
        spent = checked_seconds(seconds)
        with self._session(token) as (session, participant):
            _rating(participant)
            left, coming = (_trial(session, participant, p) for p in (position_from, position_to))
            if not all(self._complete(session, participant)[: coming.position]):
                raise StudyError("invalid_answer", "a page before it lacks an answer")
            self._leave(participant, left, spent)
            participant.position = coming.position
            coming.shown_at = coming.shown_at or self._clock()
            self._note(session, participant, "turned", f"{left.position} to {coming.position}")
            return self._view(session, participant)

    def finish(self, token: str, seconds: float = 0.0) -> View:
        """End the ratings, every page answered, and return the debrief with the completion code.

        Args:
            token: the participant's.
            seconds: how long the last page was visible.

        Raises:
            StudyError: invalid_answer: an answer is missing.
        """
        spent = checked_seconds(seconds)
        with self._session(token) as (session, participant):
            if participant.status != "completed":
                _rating(participant)
                if not all(self._complete(session, participant)):
                    raise StudyError("invalid_answer", "a page lacks an answer")
                self._leave(participant, _trial(session, participant, participant.position), spent)
                complete(participant, self.study.settings.recruitment.completion_code, self._clock())
                self._note(session, participant, "finished")
            return self._view(session, participant)

    def withdraw(self, token: str) -> None:
        """Delete all a participant has given, for good; what remains is that somebody has withdrawn."""
        with transaction(self.engine) as session:
            participant = self._access.find(session, token, lock=True)
            if participant.status != "withdrawn":
                erase(session, participant, self._clock())
        forget(self.engine)

    def language(self, token: str, code: str) -> View:
        """Show everything in another of the study's languages.

        Raises:
            StudyError: invalid_answer: the study has no such language.
        """
        if code not in self.study.settings.languages:
            raise StudyError("invalid_answer", "the study has no such language")
        with self._session(token) as (session, participant):
            if participant.language != code:
                self._note(session, participant, "language", code)
                participant.language = code
            return self._view(session, participant)

    @contextmanager
    def _session(self, token: str) -> Iterator[tuple[Session, Participant]]:
        with transaction(self.engine) as session:
            yield session, self._access.go_on(session, token)

    def _view(self, session: Session, participant: Participant) -> View:
        given = progress(session, participant.id)
        page = None
        if participant.stage == "rating":
            shown, answers = given[participant.position]
            page = self._pages.page(shown, answers, participant.language)
        done = participant.stage == "debrief"
        return View(
            stage=participant.stage,
            language=participant.language,
            position=participant.position,
            pages=len(given),
            page=page,
            answered=tuple(self._pages.complete(*entry) for entry in given),
            code=participant.code if done else None,
            url=(self.study.settings.recruitment.completion_url or None) if done else None,
        )

    def _complete(self, session: Session, participant: Participant) -> list[bool]:
        return [self._pages.complete(*entry) for entry in progress(session, participant.id)]

    def _begin(self, session: Session, participant: Participant) -> None:
        participant.stage = "rating"
        _trial(session, participant, 0).shown_at = self._clock()

    def _leave(self, participant: Participant, trial: Trial, seconds: float) -> None:
        """Count the time on the page shown last: a page left already, or in another tab, counts no second time."""
        if trial.position == participant.position:
            trial.seconds += seconds
            trial.left_at = self._clock()

    def _note(self, session: Session, participant: Participant, kind: str, detail: str = "") -> None:
        session.add(Event(participant_id=participant.id, kind=kind, detail=detail, at=self._clock()))


def _rating(participant: Participant) -> None:
    if participant.stage == "debrief":
        raise StudyError("already_took_part")
    if participant.stage != "rating":
        raise StudyError("invalid_answer", "the ratings have not begun")


def _failed(participant: Participant, key: str) -> Select[int]:
    attempt = select(Event.id).where(Event.participant_id == participant.id, Event.kind == "check_failed")
    return attempt.where(Event.detail.endswith(f" {key}", autoescape=True))


def _trial(session: Session, participant: Participant, position: int) -> Trial:
    if type(position) is not int or not 0 <= position < 2**31:
        raise StudyError("invalid_answer", "a page's position is a number")
    found = select(Trial).where(Trial.participant_id == participant.id, Trial.position == position)
    trial = session.scalar(found)
    if trial is None:
        raise StudyError("invalid_answer", "there is no such page")
    return trial
