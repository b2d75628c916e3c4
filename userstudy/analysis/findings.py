"""Every variant against the reference on every question: corrected, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from quantxai import statistics
from quantxai.compare import verdict
from quantxai.records import Correction
from userstudy.analysis.checks import add_checks
from userstudy.analysis.comparison import Comparison, compared, interval, two_sided
from userstudy.analysis.results import RatingFinding
from userstudy.settings import StudySettings

__all__ = ["confirmatory_questions", "rating_findings"]

_POWER = 0.8
_FEW = 8
"""Fewer participants or groups of source items than this are said to be few."""


def rating_findings(
    rated: pd.DataFrame, settings: StudySettings, reference: str, variants: Sequence[str], *, checks: bool
) -> tuple[RatingFinding, ...]:
    """Compare every variant with the reference on every question that has numbers.

    - The estimate is the coefficient of `crossed.regress`, for pairs the mean preference; its interval and both
      tests share one error and one reference distribution (`quantxai.statistics.crossed.Crossed`).
    - The questions to be decided are a family corrected as the settings say, all others one corrected by
      Benjamini-Hochberg; equivalence likewise.
    - Verdicts follow `quantxai.compare.verdict`.

    Args:
        rated: first answers with a value, of those who are kept.
        settings: the study's.
        reference: the variant the others are compared with.
        variants: the others.
        checks: whether to add ordinal regressions, the mixed model and signed ranks.
    """
    questions = [question for question in settings.questions if question.numeric]
    found = compared(rated, questions, reference, variants)
    if checks:
        by_question = {question.id: rated[rated["question"] == question.id] for question in questions}
        add_checks(found, by_question, variants, settings.analysis.alpha)
    return tuple(_judged(found, settings, reference))


def confirmatory_questions(settings: StudySettings) -> frozenset[str]:
    """Return the questions the study is to decide: those it names, else all scales, else all with numbers."""
    if settings.analysis.confirmatory is not None:
        return frozenset(settings.analysis.confirmatory)
    scales = frozenset(question.id for question in settings.questions if question.kind == "likert")
    return scales or frozenset(question.id for question in settings.questions if question.numeric)


def _judged(found: Sequence[Comparison], settings: StudySettings, reference: str) -> Iterator[RatingFinding]:
    """Yield the findings, corrected within their families."""
    analysis = settings.analysis
    named = confirmatory_questions(settings)
    tests = [_tests(one, _margin(one, settings), analysis.alpha) for one in found]
    corrected: list[dict[str, Any]] = [{} for _ in found]
    for confirmatory in (True, False):
        members = [
            i
            for i, one in enumerate(found)
            if (one.question.id in named) == confirmatory and tests[i]["p"] is not None
        ]
        correction: Correction = analysis.correction if confirmatory else "benjamini-hochberg"
        results = {
            "p_adjusted": statistics.adjusted([tests[i]["p"] for i in members], correction),
            "p_equivalence_adjusted": statistics.adjusted(
                [tests[i]["p_equivalence"] for i in members], correction
            ),
            "p_wilcoxon_adjusted": statistics.adjusted(
                [found[i].values.get("p_wilcoxon") for i in members], "holm"
            ),
        }
        for place, index in enumerate(members):
            corrected[index] = {name: values[place] for name, values in results.items()}
            corrected[index]["family"] = len(members)
    for one, test, adjusted in zip(found, tests, corrected, strict=True):
        confirmatory = one.question.id in named
        yield _finding(
            one,
            dict.fromkeys(("p_adjusted", "p_equivalence_adjusted", "p_wilcoxon_adjusted"))
            | {
                "family": 0,
                "confirmatory": confirmatory,
                "correction": analysis.correction if confirmatory else "benjamini-hochberg",
            }
            | test
            | adjusted,
            settings,
            reference,
        )


def _margin(one: Comparison, settings: StudySettings) -> float:
    analysis = settings.analysis
    return analysis.margin if one.question.kind == "likert" else analysis.margin_share


def _tests(one: Comparison, margin: float, alpha: float) -> dict[str, Any]:
    """Return estimate, interval and tests of one comparison, as fields of `RatingFinding`."""
    found = one.found if one.comparable else None
    missing = dict.fromkeys(
        ("estimate", "error", "ci_low", "ci_high", "p", "p_equivalence", "minimum_detectable")
    )
    if found is None:
        one.notes.append(_why_nothing(one))
        return missing
    if not found.error > 0:
        one.notes.append("The answers do not vary, so nothing is known about other participants and items.")
        return missing | {"estimate": found.mean}
    few = [name for name, n in (("participants", found.seeds), ("groups of items", found.groups)) if n < _FEW]
    if few:
        one.notes.append(
            f"Few {' and '.join(few)}: the interval is wide and rests on their differences alone."
        )
    largest = one.question.points - 1 if one.question.kind == "likert" else 1
    low, high = interval(found, alpha, largest)
    return {
        "estimate": found.mean,
        "error": found.error,
        "ci_low": low,
        "ci_high": high,
        "p": two_sided(found),
        "p_equivalence": found.tail((margin - abs(found.mean)) / found.error),
        "minimum_detectable": (found.quantile(alpha / 2) + found.quantile(1 - _POWER)) * found.error,
    }


def _why_nothing(one: Comparison) -> str:
    if not len(one.own):
        return "No answers about the variant."
    if not one.comparable:
        return "No answers about the reference."
    answers = one.own if one.pairwise else pd.concat([one.own, one.other])
    for column, name in (
        ("participant", "participant"),
        ("item", "source item"),
        ("group", "group of source items"),
    ):
        if answers[column].nunique() < 2:
            return f"One {name} alone: nothing is known about others."
    return (
        "Variants cannot be told from participants and source items: nobody's answers hold them equal, or too few "
        "participants or groups of items do for others to be judged by them."
    )


def _finding(
    one: Comparison, values: Mapping[str, Any], settings: StudySettings, reference: str
) -> RatingFinding:
    answers = one.own if one.pairwise else pd.concat([one.own, one.other])
    own, other = one.own["value"].to_numpy(float), one.other["value"].to_numpy(float)
    means: tuple[float | None, float | None]
    if one.pairwise:
        means = (float((own < 0).mean()), float((own > 0).mean())) if len(own) else (None, None)
    else:
        means = (float(other.mean()) if len(other) else None, float(own.mean()) if len(own) else None)
    better = one.question.higher_is_better if one.question.kind == "likert" else True
    judged = None
    if values["estimate"] is not None:
        judged = verdict(
            values["estimate"],
            better,
            values["p_adjusted"],
            values["p_equivalence_adjusted"],
            settings.analysis.alpha,
        )
    checks = dict.fromkeys(
        (
            "log_odds", "log_odds_low", "log_odds_high", "p_ordinal", "gee_log_odds", "p_gee", "p_wilcoxon",
            "mixed_estimate", "mixed_low", "mixed_high", "p_mixed",
        )
    )  # fmt: skip
    fields = checks | one.values | dict(values)
    return RatingFinding(
        question=one.question.id,
        scale=one.question.kind,
        variant=one.variant,
        reference=reference,
        higher_is_better=better,
        unit="points" if one.question.kind == "likert" else "share",
        n=len(answers),
        participants=answers["participant"].nunique(),
        items=answers["item"].nunique(),
        groups=answers["group"].nunique(),
        reference_mean=means[0],
        variant_mean=means[1],
        margin=_margin(one, settings),
        verdict=judged,
        cliffs_delta=None if one.pairwise else statistics.cliffs_delta(other, own),
        d_z=statistics.paired_effect_size(one.by_participant),
        notes=tuple(one.notes),
        **fields,
    )
