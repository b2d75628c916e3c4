"""The analysis plan: what a run is to decide, written and hashed before it has a single result.

`RUN/analysis-plan.json` is derived from the manifest. `quantxai plan` writes it, or the sweep itself
before its first cell; once results are stored it is never replaced. What is shown later is confirmatory
only as far as it is what was planned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from quantxai.analysis import confirmatory_outcomes, with_margins
from quantxai.errors import RunError
from quantxai.files import write_atomically
from quantxai.manifest import Manifest
from quantxai.records import Record, digest
from quantxai.store import Store

__all__ = [
    "FILE",
    "AnalysisPlan",
    "Outcome",
    "PlanStatus",
    "changes",
    "keep_plan",
    "plan_of",
    "plan_status",
    "read_plan",
    "refuse_results",
    "write_plan",
]

FILE = "analysis-plan.json"


class Outcome(Record):
    """A confirmatory outcome."""

    outcome: str = Field(description="Scorer and metric: recall.recall.")
    higher_is_better: bool
    margin: float = Field(description="Largest change called equivalent.")
    unit: str


class AnalysisPlan(Record):
    """What is to be decided, by which rules and on what."""

    created: str = Field(description="ISO 8601, UTC.")
    quantxai: str = Field(description="Version that wrote it.")
    model: str = Field(description="The parent's name.")
    model_digest: str | None
    parent: str
    variants: dict[str, str] = Field(description="Digest of each, controls and parent included.")
    seed: int = Field(description="It chooses the items, and everything random but calibration.")
    data: dict[str, str] = Field(
        description="By explainer and data set: number of items, and the data set's digest."
    )
    options: dict[str, str] = Field(
        description="Digests of the options of every explainer, and of the scorers of confirmatory outcomes."
    )
    alpha: float
    correction: str
    confirmatory: list[Outcome]
    margins: dict[str, float] = Field(description="Of every other outcome that has a direction.")
    contrasts: list[tuple[str, str]]
    digest: str = Field(description="SHA-256 of all the above as canonical JSON.")


class PlanStatus(NamedTuple):
    """Whether what is shown was planned.

    Attributes:
        planned: whether the confirmatory outcomes were fixed before the first result, and not changed since.
        sentence: the same for a reader, with the reason where it is not so.
        digest: the plan's, None without one.
        created: when it was written, None without one.
    """

    planned: bool
    sentence: str
    digest: str | None
    created: str | None


def plan_of(manifest: Manifest) -> AnalysisPlan:
    """Return the plan that a manifest amounts to, as of now."""
    analysis = manifest.planned_analysis
    asked = {key.scorer for key in manifest.cells}  # others have no explainer to read in this run
    named = confirmatory_outcomes(analysis, manifest.metrics)
    judged = {
        key: metric
        for key, metric in with_margins(analysis, manifest.metrics).items()
        if key[0] in asked and metric.higher_is_better is not None
    }
    fields: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "quantxai": manifest.quantxai,
        "model": str(manifest.model.get("name")),
        "model_digest": manifest.model.get("digest"),
        "parent": manifest.parent,
        "variants": {str(v["name"]): str(v.get("digest")) for v in manifest.variants},
        "seed": manifest.seed,
        "data": {
            f"{e['explainer']} on {e['dataset']}": f"{e['items']} items of {e['digest']}"
            for e in manifest.explainers
        },
        "options": _options(manifest, {scorer for scorer, _ in named & judged.keys()}),
        "alpha": analysis.alpha,
        "correction": analysis.correction,
        "confirmatory": [
            Outcome(
                outcome=".".join(key),
                higher_is_better=bool(metric.higher_is_better),
                margin=metric.margin,
                unit=metric.unit,
            ).model_dump()
            for key, metric in judged.items()
            if key in named
        ],
        "margins": {".".join(key): metric.margin for key, metric in judged.items() if key not in named},
        "contrasts": [list(contrast) for contrast in analysis.contrasts],
    }
    return AnalysisPlan(**fields, digest=digest(fields))


def _options(manifest: Manifest, scorers: Collection[str]) -> dict[str, str]:
    """Return a digest of how each explainer asks, and each of some scorers scores."""
    asked = {f"{e['explainer']} on {e['dataset']}": e for e in manifest.explainers}
    scored = {str(s["scorer"]): s for s in manifest.scorers if s["scorer"] in scorers}
    return {name: digest(entry.get("options")) for name, entry in {**asked, **scored}.items()}


def write_plan(store: Store, plan: AnalysisPlan) -> None:
    """Write a plan into a run that has no result yet, in place of an earlier one.

    Raises:
        RunError: results are stored already.
    """
    refuse_results(store)
    write_atomically(store.path / FILE, plan.model_dump_json(indent=1).encode())


def refuse_results(store: Store) -> None:
    """Raise RunError where results are stored already."""
    if _has_results(store):
        raise RunError(
            f"'{store.path}' holds results already: a plan written now would not be one. "
            "Plan a new run with: quantxai plan CONFIG.toml --out DIR"
        )


def keep_plan(store: Store) -> AnalysisPlan | None:
    """Write the plan of a run that is about to start, unless it has one that says the same.

    Returns:
        The plan, if one was written.
    """
    if _has_results(store):
        return None
    plan, earlier = plan_of(store.manifest), read_plan(store)
    if earlier is not None and not changes(earlier, plan):
        return None
    write_plan(store, plan)
    return plan


def read_plan(store: Store) -> AnalysisPlan | None:
    """Return a run's plan; None without one.

    Raises:
        RunError: the file is not as it was written.
    """
    file = store.path / FILE
    if not file.is_file():
        return None
    try:
        plan = AnalysisPlan.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(f"'{file}' cannot be read: {where}: {first['msg']}.") from None
    if digest(plan.model_dump(mode="json", exclude={"digest"})) != plan.digest:
        raise RunError(f"'{file}' was changed after it was written: its digest does not fit what it says.")
    return plan


def plan_status(store: Store) -> PlanStatus:
    """Return whether a run's confirmatory outcomes were planned; see `PlanStatus`."""
    try:
        plan = read_plan(store)
    except RunError as error:
        reason = str(error).replace(str(store.path / FILE), FILE)  # reports travel, paths do not
        return PlanStatus(False, f"Exploratory: {reason}", None, None)
    if plan is None:
        text = "Exploratory: no analysis plan was written before the first result."
        return PlanStatus(False, text, None, None)
    started = _first_result(store)
    changed = changes(plan, plan_of(store.manifest))
    mark = f"plan {plan.digest[:12]}, written {plan.created}"
    if started is not None and datetime.fromisoformat(plan.created).timestamp() > started:
        text = f"Exploratory: the analysis plan ({mark}) is younger than the first result."
        return PlanStatus(False, text, plan.digest, plan.created)
    if changed:
        text = f"Exploratory: not what was planned ({mark}): {'; '.join(changed)}."
        return PlanStatus(False, text, plan.digest, plan.created)
    if not plan.confirmatory:
        text = f"Exploratory: the analysis plan ({mark}) names no confirmatory outcome."
        return PlanStatus(False, text, plan.digest, plan.created)
    names = ", ".join(outcome.outcome for outcome in plan.confirmatory)
    text = f"Planned before the first result ({mark}): confirmatory are {names}; all else is exploratory."
    return PlanStatus(True, text, plan.digest, plan.created)


def changes(plan: AnalysisPlan, now: AnalysisPlan) -> list[str]:
    """Return what is asked now that was not planned, one phrase each."""
    return list(_changes(plan, now))


def _changes(plan: AnalysisPlan, now: AnalysisPlan) -> Iterator[str]:
    """Say what is asked now that was not planned, one phrase each."""
    for name in ("model_digest", "parent", "seed", "alpha", "correction", "contrasts"):
        if getattr(plan, name) != getattr(now, name):
            yield f"{name.replace('_', ' ')} changed from {getattr(plan, name)} to {getattr(now, name)}"
    tables: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("variant", plan.variants, now.variants),
        ("data", plan.data, now.data),
        (
            "confirmatory outcome",
            {o.outcome: o.margin for o in plan.confirmatory},
            {o.outcome: o.margin for o in now.confirmatory},
        ),
    ]
    for noun, before, after in tables:
        yield from (f"{noun} '{name}' left out" for name in before if name not in after)
        yield from (f"{noun} '{name}' added" for name in after if name not in before)
        yield from (
            f"{noun} '{name}' changed" for name in before if before[name] != after.get(name, before[name])
        )
    for name, options in plan.options.items():
        if options != now.options.get(name, options):
            yield f"options of '{name}' changed"


def _has_results(store: Store) -> bool:
    return any(next((store.path / kind).rglob("*.parquet"), None) for kind in ("rows", "scores"))


def _first_result(store: Store) -> float | None:
    """When the first stored cell was begun, seconds since the epoch; None where no cell says so."""
    cells = [key for key in store.manifest.cells if key.kind == "rows" and store.has(key)]
    begun = [store.meta(key).get("started") for key in cells]
    return min((float(b) for b in begun if isinstance(b, int | float)), default=None)
