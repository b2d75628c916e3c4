"""The tables.

Ratings and identifiers lie apart: a participant is a number; what recruiting platforms call them is in
`identities`, as a keyed hash. Answers and events are only ever added to; the latest answer to a
question counts. A withdrawal deletes everything but the participant's row, whose status then says so.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Double, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Admission", "Answer", "Attempt", "Base", "Event", "Exclusion", "Identity", "Participant", "Trial"]


class Base(DeclarativeBase):
    """Of all tables. Times are UTC, without a zone, as SQLite stores them."""


class Admission(Base):
    """Whether the study takes participants: the row with the largest id counts."""

    __tablename__ = "admissions"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]  # open, paused, closed
    digest: Mapped[
        str
    ]  # of material and design, so that no other study's files are served over these answers
    at: Mapped[datetime]


class Participant(Base):
    """One person's session, or what is left of it."""

    __tablename__ = "participants"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)  # random, what a link's token carries
    kind: Mapped[str]  # human, simulated, preview
    language: Mapped[str]
    form: Mapped[int] = mapped_column(index=True)
    seed: Mapped[int]  # of the order
    status: Mapped[str] = mapped_column(index=True)  # active, completed, screened_out, released, withdrawn
    stage: Mapped[str]  # instructions, check, rating, debrief
    position: Mapped[int]  # the page shown last, counted from 0
    check_failures: Mapped[int]
    code: Mapped[str | None]  # the completion code given
    device: Mapped[str | None]  # phone or desktop
    consented_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]


class Identity(Base):
    """Who a participant is elsewhere, as HMAC-SHA256 under the study's key."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("kind", "hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    participant_id: Mapped[int] = mapped_column(ForeignKey("participants.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]  # prolific, or page: what the page that sent the consent calls itself
    hash: Mapped[str]
    session_hash: Mapped[str | None]  # of SESSION_ID: who knows it may resume


class Trial(Base):
    """One page of one participant, in their order."""

    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("participant_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    participant_id: Mapped[int] = mapped_column(ForeignKey("participants.id", ondelete="CASCADE"))
    position: Mapped[int]
    kind: Mapped[str]  # rating, repeat, attention
    stimuli: Mapped[list[str]] = mapped_column(JSON)  # shown left to right
    seconds: Mapped[float] = mapped_column(Double)  # on the page, while it was visible
    shown_at: Mapped[datetime | None]
    left_at: Mapped[datetime | None]


class Answer(Base):
    """One answer as given; a later one to the same question replaces it without removing it."""

    __tablename__ = "answers"
    __table_args__ = (
        UniqueConstraint("participant_id", "key"),
        Index("ix_answers_trial", "trial_id", "question"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    participant_id: Mapped[int] = mapped_column(ForeignKey("participants.id", ondelete="CASCADE"))
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"))
    question: Mapped[str]
    value: Mapped[str]
    key: Mapped[str]  # made by the page: the same answer sent twice is stored once
    at: Mapped[datetime]


class Event(Base):
    """What happened beside answers: pages turned, checks failed, a link opened on another device."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    participant_id: Mapped[int] = mapped_column(ForeignKey("participants.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    detail: Mapped[str]
    at: Mapped[datetime]


class Exclusion(Base):
    """A participant set aside by hand; reversible, and both are on record."""

    __tablename__ = "exclusions"

    id: Mapped[int] = mapped_column(primary_key=True)
    participant_id: Mapped[int] = mapped_column(ForeignKey("participants.id", ondelete="CASCADE"), index=True)
    reason: Mapped[str]
    at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Attempt(Base):
    """A failed or limited request, so that several processes share one limit."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_what_at", "what", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]  # admin-login:ADDRESS-HASH and the like
    at: Mapped[datetime]
