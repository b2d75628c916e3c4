"""The whole analysis of a study's ratings."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from userstudy.analysis.agreement import agreements, intra_rater
from userstudy.analysis.correlation import metric_correlations
from userstudy.analysis.describe import descriptives
from userstudy.analysis.exclusions import exclusions, without
from userstudy.analysis.findings import rating_findings
from userstudy.analysis.order_effects import order_effects
from userstudy.analysis.results import RatingFinding, StudyAnalysis
from userstudy.records import Design
from userstudy.settings import StudySettings

__all__ = ["analyze", "find"]

_COMPARED = ("participant", "kind", "item", "group", "dataset", "variant", "question", "scale", "value")
"""Columns that findings need; text is slow to copy, so the others are left out."""


def analyze(
    ratings: pd.DataFrame,
    settings: StudySettings,
    design: Design,
    measurements: pd.DataFrame | None = None,
    *,
    resamples: int = 1000,
) -> StudyAnalysis:
    """Return everything that a study's ratings say.

    Args:
        ratings: the tidy table of userstudy/ratings.py, any statuses and kinds.
        settings: questions, exclusion rules, level, margins.
        design: the variants and the reference.
        measurements: the run's metrics of the same items, `Measurement.COLUMNS`; with a further column
            `higher_is_better`, correlations of metrics that are better when low are turned round.
        resamples: of every bootstrap.
    """
    left_out = exclusions(ratings, settings.exclusion)
    kept = without(ratings, left_out)
    rated = first_answers(kept, design)
    others = tuple(variant for variant in design.variants if variant != design.reference)
    findings = rating_findings(rated, settings, design.reference, others, checks=True)
    everybody: tuple[RatingFinding, ...] = ()
    if left_out.excluded:
        rated_by_all = first_answers(ratings, design)
        everybody = rating_findings(rated_by_all, settings, design.reference, others, checks=False)
    return StudyAnalysis(
        settings=settings,
        reference=design.reference,
        variants=others,
        participants=kept["participant"].nunique(),
        items=rated["item"].nunique(),
        ratings=len(rated),
        exclusions=left_out,
        descriptives=tuple(descriptives(rated, settings, (design.reference, *others))),
        agreement=tuple(agreements(rated, settings, resamples)),
        intra_rater=tuple(intra_rater(kept, settings, resamples)),
        findings=findings,
        findings_without_exclusions=everybody,
        order_effects=order_effects(rated, settings, others),
        correlations=()
        if measurements is None
        else metric_correlations(rated, measurements, settings, design.reference, others, resamples),
        notes=tuple(_notes(kept, rated, settings, design)),
    )


def find(ratings: pd.DataFrame, settings: StudySettings, design: Design) -> tuple[RatingFinding, ...]:
    """Return the findings of `analyze` alone and without checks: the same estimates, tests and verdicts, fast."""
    left_out = exclusions(ratings, settings.exclusion)
    kept = without(ratings[list(_COMPARED)], left_out)
    others = tuple(variant for variant in design.variants if variant != design.reference)
    rated = first_answers(kept, design)
    return rating_findings(rated, settings, design.reference, others, checks=False)


def first_answers(ratings: pd.DataFrame, design: Design) -> pd.DataFrame:
    """Return the answers that are analysed: on pages shown the first time, with a number, about the variants."""
    chosen = (ratings["kind"] == "rating") & ratings["value"].notna() & (ratings["scale"] != "text")
    chosen &= ratings["variant"].isin(design.variants)
    return ratings[chosen].assign(value=ratings.loc[chosen, "value"].astype(float))


def _notes(kept: pd.DataFrame, rated: pd.DataFrame, settings: StudySettings, design: Design) -> Iterator[str]:
    if rated.empty:
        yield "There are no ratings to analyse."
        return
    if design.reference not in set(rated["variant"]) and settings.design.show == "one":
        yield f"Nobody rated the reference, {design.reference}: there is nothing to compare with."
    if settings.analysis.reference != design.reference:
        yield (
            f"analysis.reference is {settings.analysis.reference}, but the material has {design.reference} as "
            "the reference, which holds."
        )
    if not (kept["kind"] == "repeat").any():
        yield "No pages were repeated: how far participants agree with themselves is not known."
