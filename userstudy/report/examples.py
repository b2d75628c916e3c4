"""What the numbers are about: source items whose variants people rated most differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from quantxai.report.marking import marked
from quantxai.report.text import change, significant
from userstudy.analysis.exclusions import without
from userstudy.analysis.findings import confirmatory_questions
from userstudy.analysis.results import StudyAnalysis
from userstudy.records import Stimulus
from userstudy.settings import Question
from userstudy.wording import Wording

__all__ = ["Example", "examples", "shown_question"]

_WORSE, _BETTER = 3, 2
"""How many are shown of those that lost most, and that gained most."""
_FEWEST = 2
"""Answers that a text's mean rests on, unless no text has so many."""


@dataclass(frozen=True)
class Example:
    """One source item under the reference and a variant.

    Attributes:
        item: the source item.
        variant: its name.
        difference: variant minus reference, in words.
        worse: whether the variant lost.
        common: parts that both show, by what they are.
        parts: parts that differ: what they are, the reference's text, the variant's with what differs marked.
        ratings: how the reference and the variant were rated, in words.
    """

    item: str
    variant: str
    difference: str
    worse: bool
    common: list[tuple[str, str]]
    parts: list[tuple[str, str, Markup]]
    ratings: tuple[str, str]


def shown_question(analysis: StudyAnalysis) -> Question | None:
    """Return the question examples are chosen by: the first confirmatory one, else the first with numbers."""
    asked = [q for q in analysis.settings.questions if q.numeric]
    named = confirmatory_questions(analysis.settings)
    return next((q for q in asked if q.id in named), next(iter(asked), None))


def examples(
    ratings: pd.DataFrame, analysis: StudyAnalysis, stimuli: Mapping[str, Stimulus], words: Wording
) -> list[Example]:
    """Return the source items that a variant lost most on, then those it gained most on.

    Args:
        ratings: an answer a row; those of excluded participants and repeated pages are left out.
        analysis: who is excluded, and what is compared.
        stimuli: what was shown.
        words: what parts of a stimulus are called.
    """
    question = shown_question(analysis)
    if question is None or not len(ratings):
        return []
    kept = without(ratings, analysis.exclusions)
    own = kept[(kept["kind"] == "rating") & (kept["question"] == question.id)]
    means = own.groupby("stimulus")["value"].agg(["mean", "count"]).dropna()
    means = means[[name in stimuli for name in means.index]]
    enough = means[means["count"] >= _FEWEST]
    means = enough if len(enough) else means
    found = _differences(means, analysis, stimuli, question)
    found.sort(key=lambda pair: pair[0])
    sign = 1 if question.higher_is_better else -1
    ordered = found if sign > 0 else found[::-1]
    lost = [pair for pair in ordered if sign * pair[0] < 0][:_WORSE]
    gained = [pair for pair in reversed(ordered) if sign * pair[0] > 0][:_BETTER]
    return [
        _example(difference, own_, other, means, question, words, worse=worse)
        for pairs, worse in ((lost, True), (gained, False))
        for difference, own_, other in pairs
    ]


def _differences(
    means: pd.DataFrame, analysis: StudyAnalysis, stimuli: Mapping[str, Stimulus], question: Question
) -> list[tuple[float, Stimulus, Stimulus]]:
    """Return the difference, the variant's stimulus and the reference's, for every pair with ratings."""
    base = {s.item: s for s in stimuli.values() if s.variant == analysis.reference}
    found = []
    for name in means.index:
        own = stimuli[name]
        other = base.get(own.item)
        if own.variant not in analysis.variants or other is None or own.parts == other.parts:
            continue
        mean = float(means.loc[name, "mean"])
        if question.kind == "pairwise":
            found.append((mean, own, other))
        elif other.id in means.index:
            found.append((mean - float(means.loc[other.id, "mean"]), own, other))
    return found


def _example(
    difference: float,
    own: Stimulus,
    other: Stimulus,
    means: pd.DataFrame,
    question: Question,
    words: Wording,
    *,
    worse: bool,
) -> Example:
    before = {part.name: part.text for part in other.parts}
    common = [(words.part(p.name), p.text) for p in own.parts if before.get(p.name) == p.text]
    parts = [
        (words.part(p.name), before.get(p.name, ""), marked(before.get(p.name, ""), p.text))
        for p in own.parts
        if before.get(p.name) != p.text
    ]
    shares = question.kind != "likert"
    told = f"{change(difference, 'proportion' if shares else '', None if shares else 2)} "
    told += "percentage points" if shares else "points"
    rated = _rated(means, other, question), _rated(means, own, question)
    return Example(own.item, own.variant, told, worse, common, parts, rated)


def _rated(means: pd.DataFrame, stimulus: Stimulus, question: Question) -> str:
    if question.kind == "pairwise" or stimulus.id not in means.index:
        return ""
    mean, number = float(means.loc[stimulus.id, "mean"]), int(means.loc[stimulus.id, "count"])
    if question.kind == "label":
        return f"guessed right by {100 * mean:.0f} % of {number}"
    return f"rated {significant(mean, 2)} by {number}"
