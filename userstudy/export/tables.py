"""A study's tables beside the ratings: participants, stimuli and the history of answers."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from sqlalchemy import Engine, func, select

from userstudy.database.engine import transaction
from userstudy.database.models import Answer, Identity, Participant, Trial
from userstudy.database.queries import reasons, whose
from userstudy.export.codebook import HISTORY, IDENTITIES, PARTICIPANTS, STIMULI, TEXTS
from userstudy.study import Study

__all__ = ["history", "participants", "stimuli"]

_TIMES = ("consented_at", "seen_at", "ended_at")


def participants(engine: Engine, kind: str | None = None, *, identifiers: bool = False) -> pd.DataFrame:
    """Return everyone who took part, a row each: `codebook.PARTICIPANTS`.

    Args:
        engine: the study's database.
        kind: human or simulated participants; those of `userstudy.ratings.ratings` where left out.
        identifiers: whether to add what leads to a person: `codebook.IDENTITIES`.

    Raises:
        StudyError: kind unavailable: the database cannot be used.
    """
    with transaction(engine, write=False) as session:
        people = select(Participant).where(Participant.kind == (kind or whose(session)))
        found = [_columns(person) for person in session.scalars(people.order_by(Participant.id))]
        spent = select(Trial.participant_id, func.sum(Trial.seconds)).group_by(Trial.participant_id)
        seconds = dict(session.execute(spent).tuples().all())
        excluded = reasons(session)
        known = {person.participant_id: person for person in session.scalars(select(Identity))}
    table = pd.DataFrame(found, columns=[*_columns(None)])
    for name in _TIMES:
        table[name] = pd.to_datetime(table[name])
    table["minutes"] = (table.ended_at - table.consented_at).dt.total_seconds() / 60
    table["seconds"] = table.participant.map(seconds).astype(float)
    table["excluded"] = table.participant.map(excluded).fillna("")
    columns = list(PARTICIPANTS)
    if identifiers:
        named = (("identity_kind", "kind"), ("identity_hash", "hash"), ("session_hash", "session_hash"))
        for column, attribute in named:
            table[column] = [getattr(known.get(number), attribute, None) for number in table.participant]
        columns += IDENTITIES
    return table[columns]


def _columns(person: Participant | None) -> dict[str, Any]:
    names = [name for name in PARTICIPANTS if name not in ("participant", "minutes", "seconds", "excluded")]
    found = {name: getattr(person, name, None) for name in [*names, "code"]}
    return {"participant": getattr(person, "id", None), **found}


def stimuli(study: Study, *, texts: bool = False) -> pd.DataFrame:
    """Return the stimuli, a row each: `codebook.STIMULI`.

    Args:
        study: whose.
        texts: whether to add what was shown: `codebook.TEXTS`.
    """
    rows = []
    for stimulus in study.stimuli.values():
        row: dict[str, Any] = {name: getattr(stimulus, name) for name in STIMULI if name != "stimulus"}
        row |= {"stimulus": stimulus.id, "removed": "; ".join(stimulus.removed)}
        if texts:
            row["texts"] = json.dumps([part.model_dump() for part in stimulus.parts], ensure_ascii=False)
        rows.append(row)
    return pd.DataFrame(rows, columns=[*STIMULI, *(TEXTS if texts else ())])


def history(engine: Engine, kind: str | None = None) -> pd.DataFrame:
    """Return every answer as it was given, replaced ones included: `codebook.HISTORY`.

    Args:
        engine: the study's database.
        kind: human or simulated participants; those of `userstudy.ratings.ratings` where left out.

    Raises:
        StudyError: kind unavailable: the database cannot be used.
    """
    given = select(
        Answer.participant_id.label("participant"),
        Trial.position,
        Trial.kind,
        Answer.question,
        Answer.value.label("answer"),
        Answer.at,
    )
    given = given.join(Trial, Answer.trial_id == Trial.id)
    given = given.join(Participant, Answer.participant_id == Participant.id)
    with transaction(engine, write=False) as session:
        chosen = given.where(Participant.kind == (kind or whose(session)))
        rows = session.execute(chosen.order_by(Answer.participant_id, Answer.id)).mappings()
        return pd.DataFrame([dict(row) for row in rows], columns=list(HISTORY))
