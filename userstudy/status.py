"""How a running study stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import pandas as pd
from pydantic import Field
from sqlalchemy import Engine, select

from quantxai.records import Record
from userstudy.analysis.results import Agreement
from userstudy.clock import now
from userstudy.database.engine import transaction
from userstudy.database.models import Participant
from userstudy.database.queries import reasons, whose
from userstudy.enrolment import abandoned_before, admission
from userstudy.ratings import ratings
from userstudy.study import Study

__all__ = ["CellCount", "DropOut", "FormCount", "Person", "Status", "status"]

RESAMPLES = 200
"""Of the interval of alpha: enough for what is looked at now and again."""


class FormCount(Record):
    """How often a form has been given out; those excluded by hand aside."""

    form: int
    completed: int
    active: int


class CellCount(Record):
    """How often one variant's text of one source item was rated, repeats and those excluded by hand aside."""

    variant: str
    item: str
    ratings: int = Field(description="Pages with an answer.")


class DropOut(Record):
    """Where silent sessions stopped."""

    page: int = Field(description="Counted from 1; 0: before the ratings.")
    participants: int


class Person(Record):
    """One participant."""

    participant: int
    status: str
    form: int
    pages: int = Field(description="Pages with an answer.")
    minutes: float | None = Field(description="From consent to the end; of those who completed.")
    seconds_per_page: float | None = Field(description="Median, of pages that have been left.")
    attention_seen: int = Field(description="Checks answered.")
    attention_failed: int
    excluded: str = Field(description="Why set aside by hand; empty where not.")


class Status(Record):
    """Counts and medians, of human participants, or of simulated ones where there are no others."""

    admission: str = Field(description="open, paused, closed.")
    kind: str = Field(description="human or simulated.")
    wanted: int = Field(description="Completed sessions the settings ask for.")
    recruited: int = Field(description="Everyone who gave consent.")
    active: int
    silent: int = Field(description="Active ones not heard of for so long that their place is free.")
    completed: int
    released: int = Field(description="Silent ones whose place was given away.")
    withdrawn: int
    screened_out: int
    excluded: int = Field(description="Set aside by hand.")
    forms: tuple[FormCount, ...]
    cells: tuple[CellCount, ...]
    median_minutes: float | None = Field(description="Of a completed session.")
    median_seconds_per_page: float | None
    drop_out: tuple[DropOut, ...] = Field(description="Of released and silent sessions.")
    agreement: tuple[Agreement, ...] = Field(
        description="Krippendorff's alpha, of those the exclusion rules keep; intervals of 200 resamples."
    )
    people: tuple[Person, ...] = Field(description="Everyone but those who have withdrawn.")


def status(study: Study, engine: Engine, time: datetime | None = None) -> Status:
    """Return how a study stands.

    Args:
        study: the study.
        engine: of `open_database`.
        time: UTC without a zone; the present where left out.

    Raises:
        StudyError: kind unavailable: the database cannot be used.
        MissingExtra: the package krippendorff is not installed.
    """
    with transaction(engine, write=False) as session:
        kind = whose(session)
        admitted = admission(session)
        excluded = reasons(session)
        people = list(
            session.scalars(select(Participant).where(Participant.kind == kind).order_by(Participant.id))
        )
    table = ratings(study, engine, kind)
    counts = Counter(person.status for person in people)
    silent = [person for person in people if _is_silent(person, study, time or now())]
    shown = [_person(person, own, excluded) for person, own in _with_ratings(people, table)]
    return Status(
        admission=admitted,
        kind=kind,
        wanted=study.settings.recruitment.participants,
        recruited=len(people),
        silent=len(silent),
        excluded=sum(bool(person.excluded) for person in shown),
        **{name: counts[name] for name in ("active", "completed", "released", "withdrawn", "screened_out")},
        forms=tuple(_forms(study, [person for person in people if person.id not in excluded])),
        cells=tuple(_cells(study, table)),
        median_minutes=_median([person.minutes for person in shown if person.minutes is not None]),
        median_seconds_per_page=_median(list(_pages(table)["seconds"])),
        drop_out=tuple(_drop_out([*silent, *(p for p in people if p.status == "released")])),
        agreement=_agreement(study, table),
        people=tuple(shown),
    )


def _is_silent(person: Participant, study: Study, time: datetime) -> bool:
    seen = person.seen_at
    return person.status == "active" and seen is not None and seen < abandoned_before(study, time)


def _with_ratings(
    people: list[Participant], table: pd.DataFrame
) -> Iterator[tuple[Participant, pd.DataFrame]]:
    own = {int(participant): rows for participant, rows in table.groupby("participant")}
    for person in people:
        if person.status != "withdrawn":
            yield person, own.get(person.id, table.iloc[:0])


def _person(person: Participant, own: pd.DataFrame, excluded: dict[int, str]) -> Person:
    checks = own[own["kind"] == "attention"]
    minutes = None
    if person.status == "completed" and person.ended_at and person.consented_at:
        minutes = (person.ended_at - person.consented_at).total_seconds() / 60
    return Person(
        participant=person.id,
        status=person.status,
        form=person.form,
        pages=own["position"].nunique(),
        minutes=minutes,
        seconds_per_page=_median(list(_pages(own)["seconds"])),
        attention_seen=len(checks),
        attention_failed=int((checks["value"] == 0).sum()),
        excluded=excluded.get(person.id, ""),
    )


def _pages(table: pd.DataFrame) -> pd.DataFrame:
    """The rated pages that have been left, one a row."""
    return table[table["seconds"] > 0].drop_duplicates(["participant", "position"])


def _forms(study: Study, people: list[Participant]) -> Iterator[FormCount]:
    counts = Counter((person.form, person.status) for person in people)
    for form in study.design.forms:
        yield FormCount(
            form=form.id, completed=counts[form.id, "completed"], active=counts[form.id, "active"]
        )


def _cells(study: Study, table: pd.DataFrame) -> Iterator[CellCount]:
    rated = table[(table["kind"] == "rating") & (table["excluded"] == "")]
    rated = rated.drop_duplicates(["participant", "position"])
    counts = Counter(zip(rated["variant"], rated["item"], strict=True))
    design = study.design
    planned = {
        (stimulus.variant, stimulus.item)
        for form in design.forms
        for trial in form.trials
        for stimulus in (study.stimuli.get(i) for i in trial.stimuli)
        if trial.kind == "rating" and stimulus is not None
        # Beside another variant's text the reference's is not what is rated.
        if len(trial.stimuli) == 1 or stimulus.variant != design.reference
    }
    for variant, item in sorted(planned, key=lambda cell: (design.variants.index(cell[0]), cell[1])):
        yield CellCount(variant=variant, item=item, ratings=counts[variant, item])


def _drop_out(people: list[Participant]) -> Iterator[DropOut]:
    pages = Counter(person.position + 1 if person.stage == "rating" else 0 for person in people)
    for page, number in sorted(pages.items()):
        yield DropOut(page=page, participants=number)


def _agreement(study: Study, table: pd.DataFrame) -> tuple[Agreement, ...]:
    from userstudy.analysis.agreement import agreements
    from userstudy.analysis.exclusions import exclusions, without

    kept = without(table, exclusions(table, study.settings.exclusion))
    return tuple(agreements(kept[kept["kind"] == "rating"], study.settings, RESAMPLES))


def _median(values: list[float]) -> float | None:
    return float(pd.Series(values).median()) if values else None
