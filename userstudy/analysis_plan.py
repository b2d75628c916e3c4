"""The study's analysis plan: what is asked and how it is judged, kept and hashed before anybody takes part.

`STUDY/analysis-plan.json` holds questions, rules of exclusion and analysis as study.toml had them when the study was
last served before its first participant. Later changes of study.toml do not reach it, so the report can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, ValidationError
from sqlalchemy import Engine, select

from quantxai import __version__
from quantxai.analysis_plan import FILE, PlanStatus
from quantxai.files import write_atomically
from quantxai.records import Record, digest
from userstudy.database.engine import transaction
from userstudy.database.models import Participant
from userstudy.settings import AnalysisSettings, Exclusion, Question
from userstudy.study import Study

__all__ = ["StudyPlan", "keep_plan", "plan_status"]


class StudyPlan(Record):
    """What the study is to decide, and by which rules."""

    created: str = Field(description="ISO 8601, UTC.")
    quantxai: str = Field(description="Version that wrote it.")
    material: str = Field(description="SHA-256 of material and design.")
    participants: int = Field(description="Completed sessions wanted.")
    questions: tuple[Question, ...]
    exclusion: Exclusion
    analysis: AnalysisSettings
    digest: str = Field(description="SHA-256 of all the above as canonical JSON.")


def keep_plan(study: Study, engine: Engine) -> StudyPlan | None:
    """Write the plan of a study in which no person has begun, unless it has one that says the same.

    Returns:
        The plan, if one was written.
    """
    with transaction(engine) as session:
        if session.scalar(select(Participant.id).where(Participant.kind == "human").limit(1)) is not None:
            return None
    plan = _plan_of(study)
    if isinstance(kept := _read(study), StudyPlan) and not _changes(kept, plan):
        return None
    write_atomically(study.path / FILE, plan.model_dump_json(indent=1).encode())
    return plan


def plan_status(study: Study) -> PlanStatus:
    """Return whether the study is analysed as was planned before its first participant."""
    plan = _read(study)
    if not isinstance(plan, StudyPlan):
        return PlanStatus(False, f"Exploratory: {plan}", None, None)
    mark = f"plan {plan.digest[:12]}, written {plan.created}"
    if changed := _changes(plan, _plan_of(study)):
        text = f"Exploratory: not what was planned ({mark}): {'; '.join(changed)}."
        return PlanStatus(False, text, plan.digest, plan.created)
    text = f"Questions, rules of exclusion and analysis were fixed before the first participant ({mark})."
    return PlanStatus(True, text, plan.digest, plan.created)


def _plan_of(study: Study) -> StudyPlan:
    settings = study.settings
    fields: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "quantxai": __version__,
        "material": study.digest,
        "participants": settings.recruitment.participants,
        "questions": [question.model_dump(mode="json") for question in settings.questions],
        "exclusion": settings.exclusion.model_dump(mode="json"),
        "analysis": settings.analysis.model_dump(mode="json"),
    }
    return StudyPlan.model_validate({**fields, "digest": digest(fields)})


def _read(study: Study) -> StudyPlan | str:
    """Return the kept plan, or why there is none."""
    try:
        plan = StudyPlan.model_validate_json((study.path / FILE).read_bytes())
    except FileNotFoundError:
        return "no analysis plan was kept before the first participant."
    except (OSError, ValidationError):
        return f"{FILE} cannot be read."
    if digest(plan.model_dump(mode="json", exclude={"digest"})) != plan.digest:
        return f"{FILE} was changed after it was written: its digest does not fit what it says."
    return plan


def _changes(plan: StudyPlan, now: StudyPlan) -> list[str]:
    found = ["other material or design"] if plan.material != now.material else []
    if plan.participants != now.participants:
        found.append(f"participants wanted changed from {plan.participants} to {now.participants}")
    asked, asks = ({q.id: q.model_dump() for q in one.questions} for one in (plan, now))
    found += _differences("question ", asked, asks)
    for table in ("exclusion", "analysis"):
        found += _differences(f"{table}.", *(getattr(one, table).model_dump() for one in (plan, now)))
    return found


def _differences(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) == after.get(name):
            continue
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) or isinstance(new, dict):
            yield f"{kind}{name} {'added' if old is None else 'left out' if new is None else 'changed'}"
        else:
            yield f"{kind}{name} changed from {old} to {new}"
