"""Everything the templates show, worked out beforehand: templates only lay out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from quantxai.records import Finding
from quantxai.report.forest import forest
from quantxai.report.numbers import Line
from quantxai.report.text import listing, metric_label
from userstudy.analysis.results import Descriptive, Excluded, RatingFinding, StudyAnalysis
from userstudy.analysis_plan import plan_status
from userstudy.report.against import Correlations, Glance, agreements, correlations, glance, relevant
from userstudy.report.bars import bars, steps
from userstudy.report.caveats import caveats, simulated_warning
from userstudy.report.examples import Example, examples, shown_question
from userstudy.report.flow import Flow, flow
from userstudy.report.prose import exclusion_rules, methods, references, scale_of
from userstudy.report.spoken import VariantSummary, anchor, answer, as_finding, summaries
from userstudy.report.tables import (
    Changed,
    agreement_rows,
    intra_rows,
    number_lines,
    order_rows,
    order_sentence,
    ranged,
    sensitivity,
)
from userstudy.settings import Question, in_language
from userstudy.study import Study
from userstudy.wording import wordings

__all__ = ["Cell", "Inputs", "QuestionView", "StudyReport", "make_study_report"]


@dataclass(frozen=True)
class Inputs:
    """What a report is made of, beside the study itself.

    Attributes:
        ratings: an answer a row: `userstudy.ratings.ratings`.
        people: a participant a row: `userstudy.export.tables.participants`.
        analysis: what was found.
        automatic: what the run found; empty where the study has no findings of it.
    """

    ratings: pd.DataFrame
    people: pd.DataFrame
    analysis: StudyAnalysis
    automatic: Sequence[Finding]


@dataclass(frozen=True)
class Cell:
    """One finding in the table of results: as one of the run's, and as it is."""

    finding: Finding
    own: RatingFinding
    anchor: str


@dataclass(frozen=True)
class QuestionView:
    """One question with its results.

    Attributes:
        question: as it was asked.
        name: for reading.
        text: what participants read.
        scale: what answers it takes.
        confirmatory: whether the study is to decide it.
        forest: changes with intervals.
        bars: how often each answer was given.
        answers: the answers in order, for the pictures' legend.
        reference: answers about the reference, if any.
        cells: findings by variant.
        means: answers about each variant, with intervals, in words.
    """

    question: Question
    name: str
    text: str
    scale: str
    confirmatory: bool
    forest: Markup
    bars: Markup
    answers: list[str]
    reference: str
    cells: dict[str, Cell]
    means: dict[str, str]


@dataclass(frozen=True)
class StudyReport:
    """All a template needs."""

    study: Study
    analysis: StudyAnalysis
    title: str
    date: str
    headline: str
    basis: str
    warnings: list[str]
    caveats: list[str]
    flow: Flow
    rules: list[str]
    excluded: Sequence[Excluded]
    summaries: list[VariantSummary]
    glance: Glance
    agreements: list[tuple[str, str]]
    questions: list[QuestionView]
    numbers: list[Line]
    agreement: list[tuple[str, ...]]
    intra: list[tuple[str, ...]]
    order: list[tuple[str, ...]]
    order_sentence: str
    sensitivity: list[Changed]
    correlations: Correlations
    by_variant: dict[str, Correlations]
    examples: list[Example]
    chosen_by: str
    methods: list[str]
    references: list[str]

    @property
    def explained(self) -> str:
        """Explainers and data sets in the study."""
        places: dict[str, set[str]] = {}
        for stimulus in self.study.stimuli.values():
            places.setdefault(stimulus.explainer, set()).add(stimulus.dataset)
        told = [f"{metric_label(name)} on {listing(sorted(places[name]))}" for name in sorted(places)]
        return "; ".join(told)


def make_study_report(study: Study, inputs: Inputs, date: str) -> StudyReport:
    """Work out the report of a study.

    Args:
        study: what was asked about what.
        inputs: what came back, and what was found in it.
        date: shown as the report's.
    """
    analysis = inputs.analysis
    people = flow(inputs.people, analysis)
    rated = {(stimulus.explainer, stimulus.dataset) for stimulus in study.stimuli.values()}
    automatic = relevant(inputs.automatic, analysis, rated)
    headline, basis = answer(analysis)
    language = study.settings.languages[0]
    plan = [] if people.simulated else [plan_status(study).sentence]
    told = [*methods(study, analysis, people), *plan]
    chosen = shown_question(analysis)
    by_variant = {name: correlations(analysis, name) for name in (analysis.reference, *analysis.variants)}
    return StudyReport(
        study=study,
        analysis=analysis,
        title=f"Does quantizing {study.origin.model} change how people rate its explanations?",
        date=date,
        headline=headline,
        basis=basis,
        warnings=simulated_warning(people),
        caveats=[*plan, *caveats(analysis, people, study.origin, study.stimuli)],
        flow=people,
        rules=exclusion_rules(study),
        excluded=analysis.exclusions.excluded,
        summaries=summaries(analysis),
        glance=glance(analysis, automatic),
        agreements=agreements(analysis, automatic),
        questions=[_question(analysis, q, language) for q in study.settings.questions if q.numeric],
        numbers=number_lines(analysis) if analysis.ratings else [],
        agreement=agreement_rows(analysis.agreement) if analysis.ratings else [],
        intra=intra_rows(analysis.intra_rater) if analysis.ratings else [],
        order=order_rows(analysis.order_effects),
        order_sentence=order_sentence(analysis.order_effects, analysis.settings.analysis.alpha),
        sensitivity=sensitivity(analysis),
        correlations=correlations(analysis),
        by_variant={name: found for name, found in by_variant.items() if found.lines},
        examples=examples(inputs.ratings, analysis, study.stimuli, wordings(study)[language]),
        chosen_by=metric_label(chosen.id) if chosen else "",
        methods=told,
        references=references(told),
    )


def _question(analysis: StudyAnalysis, question: Question, language: str) -> QuestionView:
    own = [found for found in analysis.findings if found.question == question.id]
    shown = {found.variant: found for found in analysis.descriptives if found.question == question.id}
    ordered = [shown[name] for name in (analysis.reference, *analysis.variants) if name in shown]
    name = metric_label(question.id)
    return QuestionView(
        question=question,
        name=name,
        text=in_language(question.text, language),
        scale=scale_of(question, language),
        confirmatory=any(found.confirmatory for found in own),
        forest=forest([as_finding(found) for found in own], (), name),
        bars=bars(ordered, question),
        answers=steps(question),
        reference=_mean(shown[analysis.reference]) if analysis.reference in shown else "",
        cells={found.variant: Cell(as_finding(found), found, anchor(found)) for found in own},
        means={variant: _mean(found) for variant, found in shown.items()},
    )


def _mean(found: Descriptive) -> str:
    """Return the mean answer about a variant, with its interval: shares in percent."""
    if found.mean is None:
        return ""
    signed = found.scale == "pairwise"
    if found.scale == "likert":
        return ranged(found.mean, found.ci_low, found.ci_high, sign=False)
    told = ranged(found.mean, found.ci_low, found.ci_high, "proportion", sign=signed)
    return f"{told}\N{NO-BREAK SPACE}{'pp' if signed else '%'}"
