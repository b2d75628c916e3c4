"""A made-up analysis of the small study: every verdict, and everything a report can show."""

from __future__ import annotations

from typing import Any

import pandas as pd

from quantxai.records import Finding, Verdict
from userstudy.analysis.results import (
    Agreement,
    Descriptive,
    Excluded,
    Exclusions,
    IntraRater,
    MetricCorrelation,
    OrderEffect,
    RatingFinding,
    StudyAnalysis,
)
from userstudy.ratings import COLUMNS
from userstudy.study import Study

__all__ = ["automatic", "made_up", "nothing", "people", "rating", "ratings"]

UNSAFE = "<script>alert('reason')</script>"
"""The reason given for setting somebody aside."""


def rating(
    question: str, variant: str, estimate: float | None, verdict: Verdict | None, **more: Any
) -> RatingFinding:
    """One finding on a scale of 7 points; `more` replaces fields."""
    known = estimate is not None
    fields: dict[str, Any] = {
        "question": question, "scale": "likert", "variant": variant, "reference": "full",
        "higher_is_better": True, "unit": "points", "n": 120, "participants": 12, "items": 6, "groups": 3,
        "reference_mean": 4.5, "variant_mean": 4.5 + estimate if known else None, "estimate": estimate,
        "error": 0.1 if known else None, "ci_low": estimate - 0.25 if known else None,
        "ci_high": estimate + 0.25 if known else None, "p": 0.01, "p_adjusted": 0.02, "margin": 0.5,
        "p_equivalence": 0.2, "p_equivalence_adjusted": 0.4, "minimum_detectable": 0.35, "confirmatory": True,
        "correction": "holm", "family": 4, "verdict": verdict, "cliffs_delta": -0.2, "d_z": -0.4,
        "log_odds": -0.8, "log_odds_low": -1.2, "log_odds_high": -0.4, "p_ordinal": 0.01, "gee_log_odds": -0.7,
        "p_gee": 0.02, "p_wilcoxon": 0.03, "p_wilcoxon_adjusted": 0.06, "mixed_estimate": estimate,
        "mixed_low": -1.0, "mixed_high": 0.0, "p_mixed": 0.02,
    }  # fmt: skip
    return RatingFinding(**{**fields, **more})


def made_up(study: Study) -> StudyAnalysis:
    """Return an analysis with all four verdicts; one participant is excluded, which one verdict rests on."""
    findings = (
        rating("understandability", "gptq-3", -0.84, "degraded"),
        rating("understandability", "nf4", 0.05, "equivalent"),
        rating("overall", "gptq-3", 0.62, "improved"),
        rating("overall", "nf4", -0.2, "unresolved", notes=("Few participants.",)),
    )
    counts = {str(point): 3 for point in range(1, 8)}
    everybody = [f.model_copy(update={"verdict": "unresolved"}) for f in findings[:1]] + list(findings[1:])
    return StudyAnalysis(
        settings=study.settings, reference="full", variants=("gptq-3", "nf4"), participants=12, items=6, ratings=480,
        exclusions=Exclusions(
            seen=13, kept=12, by_rule={"attention": 1, "too_fast": 0},
            excluded=(Excluded(participant=13, rules=("manual",), reason=UNSAFE),),
        ),
        descriptives=tuple(
            Descriptive(
                question=question, scale="likert", variant=variant, n=21, participants=12, items=6, mean=4.0,
                ci_low=3.5, ci_high=4.5, sd=2.0, median=4.0, counts=counts,
            )
            for question in ("understandability", "overall") for variant in ("full", "gptq-3", "nf4")
        ),
        agreement=(
            Agreement(
                question="understandability", scale="likert", points=7, level="ordinal", alpha=0.31, ci_low=0.2,
                ci_high=0.4, units=18, participants=12, n=72,
            ),
            Agreement(
                question=None, scale="likert", points=7, level="ordinal", alpha=None, ci_low=None, ci_high=None,
                units=0, participants=0, n=0, notes=("Nobody saw the same text.",),
            ),
        ),
        intra_rater=(
            IntraRater(
                question="overall", scale="likert", pairs=12, participants=12, exact=0.75, exact_low=0.5,
                exact_high=0.9, kappa=0.7, kappa_low=0.5, kappa_high=0.8, alpha=0.7, alpha_low=0.5, alpha_high=0.8,
                mean_change=-0.1,
            ),
        ),
        findings=findings,
        findings_without_exclusions=tuple(everybody),
        order_effects=(
            OrderEffect(
                question=None, outcome="seconds", variant=None, unit="log seconds a page", n=96, participants=12,
                estimate=-0.03, ci_low=-0.05, ci_high=-0.01, p=0.01, p_adjusted=0.02,
            ),
        ),
        correlations=tuple(
            MetricCorrelation(
                explainer="counterfactual", scorer="perplexity", metric="nll", question=question, variant=variant,
                higher_is_better=False, stimuli=18, groups=3, rho=rho, ci_low=0.1, ci_high=0.6, p=p, p_adjusted=p,
            )
            for question, rho, p in (("understandability", 0.42, 0.01), ("overall", -0.35, 0.4))
            for variant in (None, "gptq-3")
        ),
        notes=("A note about the whole.",),
    )  # fmt: skip


def nothing(study: Study, seen: int = 0) -> StudyAnalysis:
    """Return the analysis of a study without anything to compare, of so many participants with answers."""
    findings = tuple(
        rating(q, v, None, None, n=0, participants=0, reference_mean=None, p=None, p_adjusted=None,
               notes=("No answers about the variant.",))
        for q in ("understandability", "overall") for v in ("gptq-3", "nf4")
    )  # fmt: skip
    return StudyAnalysis(
        settings=study.settings, reference="full", variants=("gptq-3", "nf4"), participants=seen,
        items=1 if seen else 0, ratings=seen, exclusions=Exclusions(seen=seen, kept=seen, by_rule={}, excluded=()),
        descriptives=(), agreement=(), intra_rater=(), findings=findings, findings_without_exclusions=(),
        order_effects=(), correlations=(),
    )  # fmt: skip


def ratings(study: Study, participants: int = 13) -> pd.DataFrame:
    """Return ratings in which gptq-3 is two points worse; the last participant, who is excluded, says 7 to all."""
    worse = {"full": 6.0, "gptq-3": 4.0, "nf4": 6.0}
    rows = [
        dict.fromkeys(COLUMNS, "") | {
            "participant": number, "status": "completed", "language": "en", "device": "phone",
            "position": place, "kind": "rating", "stimulus": stimulus.id, "item": stimulus.item,
            "variant": stimulus.variant, "question": "understandability", "scale": "likert", "seconds": 10.0,
            "value": 7.0 if number == 13 else worse[stimulus.variant], "at": pd.Timestamp("2026-03-01"),
        }
        for number in range(1, participants + 1)
        for place, stimulus in enumerate(study.stimuli.values())
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def people(kind: str = "human", finished: int = 13, **others: int) -> pd.DataFrame:
    """Return a table of participants; `others` says how many have another status."""
    statuses = ["completed"] * finished + [status for status, number in others.items() for _ in range(number)]
    return pd.DataFrame(
        {
            "participant": range(1, len(statuses) + 1), "kind": kind, "status": statuses, "language": "en",
            "device": "phone", "minutes": 20.0, "seconds": 600.0,
        }
    )  # fmt: skip


def automatic(variant: str, verdict: Verdict, **more: Any) -> Finding:
    """One finding of the run about flips of counterfactuals."""
    fields: dict[str, Any] = dict.fromkeys(Finding.model_fields) | {
        "explainer": "counterfactual", "dataset": "inference", "scorer": "flips", "metric": "parent_soft_flip",
        "kind": "binary", "higher_is_better": True, "unit": "proportion", "variant": variant, "reference": "full",
        "n": 60, "n_missing": 0, "groups": 30, "estimate": -0.2, "ci_low": -0.3, "ci_high": -0.1,
        "test": "mcnemar-exact", "margin": 0.1, "confirmatory": True, "correction": "holm", "family": 2,
        "verdict": verdict,
    }  # fmt: skip
    return Finding(**{**fields, **more})
