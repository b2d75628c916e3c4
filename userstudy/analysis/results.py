"""The records of an analysed study: what is found, and what it rests on.

No data is None, never 0; `notes` says why something is None.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from quantxai.records import Correction, Record, Verdict
from userstudy.settings import StudySettings

__all__ = [
    "Agreement",
    "Descriptive",
    "Excluded",
    "Exclusions",
    "IntraRater",
    "MetricCorrelation",
    "OrderEffect",
    "RatingFinding",
    "StudyAnalysis",
]

Scale = Literal["likert", "pairwise", "label"]


class _Outcome(Record):
    """Which question is meant: the head of every result."""

    question: str = Field(description="Question id.")
    scale: Scale


class Descriptive(_Outcome):
    """The answers to one question about one variant."""

    variant: str
    n: int = Field(description="Answers.")
    participants: int
    items: int = Field(description="Source items.")
    mean: float | None = Field(
        description="likert: points; label: share of right guesses; pairwise: share preferring the variant minus "
        "share preferring the reference."
    )
    ci_low: float | None = Field(
        description="Interval of the mean for other participants and items, lower end."
    )
    ci_high: float | None
    sd: float | None = Field(description="Standard deviation of the answers.")
    median: float | None
    counts: dict[str, int] = Field(
        description="How often each answer was given: points; right, wrong; variant, same, reference."
    )
    notes: tuple[str, ...] = ()


class RatingFinding(_Outcome):
    """One variant against the reference on one question, participants and source items crossed."""

    variant: str
    reference: str
    higher_is_better: bool
    unit: str = Field(description="points or share.")
    n: int = Field(description="Answers about the variant and the reference.")
    participants: int = Field(description="Participants among them.")
    items: int = Field(description="Source items among them.")
    groups: int = Field(description="Groups of source items among them, the clusters.")
    reference_mean: float | None = Field(
        description="Plain mean of the answers; pairwise: share preferring the reference."
    )
    variant_mean: float | None = Field(
        description="Plain mean of the answers; pairwise: share preferring the variant."
    )
    estimate: float | None = Field(
        description="Variant minus reference with participants and source items held equal, in the unit; pairwise: "
        "share preferring the variant minus share preferring the reference."
    )
    error: float | None = Field(
        description="Standard error of the estimate for other participants and items."
    )
    ci_low: float | None = Field(description="1 - alpha interval of the estimate, lower end.")
    ci_high: float | None
    p: float | None = Field(description="Of no difference; the one the verdict rests on.")
    p_adjusted: float | None = Field(description="p corrected for the family's number of comparisons.")
    margin: float = Field(description="Largest change still called equivalent, in the unit.")
    p_equivalence: float | None = Field(
        description="The larger p of two one-sided tests that the difference lies within the margin."
    )
    p_equivalence_adjusted: float | None
    minimum_detectable: float | None = Field(
        description="Smallest true difference found with 80 % power by a single comparison of this spread."
    )
    confirmatory: bool = Field(description="Whether the settings name the question as one to be decided.")
    correction: Correction = Field(description="How p was adjusted over the family.")
    family: int = Field(description="Comparisons that were corrected together.")
    verdict: Verdict | None = Field(description="null where there is nothing to compare.")
    cliffs_delta: float | None = Field(
        description="P(an answer about the variant is higher) - P(it is lower), over all pairs; pairwise: null."
    )
    d_z: float | None = Field(
        description="Mean over participants of their mean difference / its standard deviation."
    )
    log_odds: float | None = Field(
        description="Ordinal regression (label: logistic): log odds ratio of a higher answer, variant to reference."
    )
    log_odds_low: float | None = Field(description="1 - alpha interval, clustered two ways, lower end.")
    log_odds_high: float | None
    p_ordinal: float | None = Field(description="Of no difference by the ordinal regression; a check.")
    gee_log_odds: float | None = Field(
        description="The same by generalized estimating equations, clustered by participant alone; a check."
    )
    p_gee: float | None
    p_wilcoxon: float | None = Field(
        description="Signed ranks of participants' mean differences, source items taken as given; a check."
    )
    p_wilcoxon_adjusted: float | None = Field(description="Holm over the family.")
    mixed_estimate: float | None = Field(
        description="Linear mixed model, participants random and source items fixed: variant minus reference; a check."
    )
    mixed_low: float | None = Field(description="1 - alpha interval by the mixed model, lower end.")
    mixed_high: float | None
    p_mixed: float | None
    notes: tuple[str, ...] = Field((), description="What to know about these numbers.")


class Agreement(Record):
    """Krippendorff's alpha between participants who saw the same stimulus."""

    question: str | None = Field(description="null: all questions of the scale together.")
    scale: Scale
    points: int | None = Field(description="likert: points of the scale.")
    level: Literal["ordinal", "nominal"]
    alpha: float | None = Field(description="1: perfect, 0: as by chance, negative: less.")
    ci_low: float | None = Field(
        description="95 % bootstrap interval over groups of source items, lower end."
    )
    ci_high: float | None
    units: int = Field(description="Stimuli with at least two answers.")
    participants: int
    n: int = Field(description="Answers to these.")
    notes: tuple[str, ...] = ()


class IntraRater(_Outcome):
    """How far participants agree with themselves on a page shown twice."""

    pairs: int = Field(description="Answers given twice.")
    participants: int
    exact: float | None = Field(description="Share of equal answers.")
    exact_low: float | None = Field(description="95 % bootstrap interval over participants, lower end.")
    exact_high: float | None
    kappa: float | None = Field(description="Cohen's kappa; likert: weighted by squared distance.")
    kappa_low: float | None
    kappa_high: float | None
    alpha: float | None = Field(description="Krippendorff's, ordinal for likert, else nominal.")
    alpha_low: float | None
    alpha_high: float | None
    mean_change: float | None = Field(description="likert: mean of second minus first answer, points.")
    notes: tuple[str, ...] = ()


class Excluded(Record):
    """One participant whose ratings are left out."""

    participant: int
    rules: tuple[str, ...] = Field(
        description="Which rules: incomplete, attention, too_fast, straight_lining, manual."
    )
    reason: str = Field(description="What was seen, or the reason given by hand.")


class Exclusions(Record):
    """Whose ratings are left out, and by which rule."""

    seen: int = Field(description="Participants with at least one answer.")
    kept: int
    by_rule: dict[str, int] = Field(
        description="Participants each active rule leaves out; some fall under several."
    )
    excluded: tuple[Excluded, ...]


class OrderEffect(Record):
    """What changes from page to page: learning, fatigue."""

    question: str | None = Field(description="null where it is about the time on a page.")
    outcome: Literal["rating", "seconds"]
    variant: str | None = Field(
        description="null: the change from page to page; else how much more of it the variant has than the reference."
    )
    unit: str = Field(description="points or share a page; of seconds: log seconds a page.")
    n: int
    participants: int
    estimate: float | None = Field(description="Change per page.")
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_adjusted: float | None = Field(description="Benjamini-Hochberg over all order effects.")
    notes: tuple[str, ...] = ()


class MetricCorrelation(Record):
    """Whether an automatic metric sees what people see."""

    explainer: str
    scorer: str
    metric: str
    question: str
    variant: str | None = Field(description="null: over the stimuli of all variants.")
    higher_is_better: bool | None = Field(
        description="Of the metric; where false, the sign of rho is turned, and again where the question is better "
        "when low, so that agreement is positive."
    )
    stimuli: int = Field(description="Stimuli with a value of the metric and ratings.")
    groups: int = Field(description="Groups of source items among them, the clusters.")
    rho: float | None = Field(description="Spearman's, of the metric and the stimulus's mean rating.")
    ci_low: float | None = Field(
        description="1 - alpha bootstrap interval over groups of source items, lower end."
    )
    ci_high: float | None
    p: float | None
    p_adjusted: float | None = Field(description="Benjamini-Hochberg over all correlations of the study.")
    notes: tuple[str, ...] = ()


class StudyAnalysis(Record):
    """Everything found in a study's ratings."""

    settings: StudySettings
    reference: str
    variants: tuple[str, ...] = Field(description="Those compared with the reference.")
    participants: int = Field(description="Whose ratings are analysed.")
    items: int = Field(description="Source items with ratings.")
    ratings: int = Field(description="Answers analysed, repeats and attention checks left out.")
    exclusions: Exclusions
    descriptives: tuple[Descriptive, ...]
    agreement: tuple[Agreement, ...]
    intra_rater: tuple[IntraRater, ...]
    findings: tuple[RatingFinding, ...] = Field(description="By question, in their order, and variant.")
    findings_without_exclusions: tuple[RatingFinding, ...] = Field(
        description="The same over everybody's ratings, without checks; empty where nobody is excluded."
    )
    order_effects: tuple[OrderEffect, ...]
    correlations: tuple[MetricCorrelation, ...] = Field(description="Empty without measurements.")
    notes: tuple[str, ...] = Field((), description="What to know about the whole analysis.")
