"""What a study found, in words that need no statistics: `understandability is 0.62 points lower`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from quantxai.records import Finding, Verdict
from quantxai.report.phrases import ends, size
from quantxai.report.summary import JUDGED, Clause, Line
from quantxai.report.text import change, count, listing, metric_label, width_places
from userstudy.analysis.results import RatingFinding, StudyAnalysis

__all__ = ["VariantSummary", "anchor", "answer", "as_finding", "summaries", "unit"]

_SAID = {
    "likert": ("{noun} is {{}} higher", "{noun} is {{}} lower"),
    "label": (
        "{noun}: the answer is guessed right {{}} more often",
        "{noun}: the answer is guessed right {{}} less often",
    ),
    "pairwise": (
        "{noun}: its text is preferred {{}} more often than that of {reference}",
        "{noun}: the text of {reference} is preferred {{}} more often than its own",
    ),
}
"""By scale: what is said of a rise and of a fall, with a place for how large."""


@dataclass(frozen=True)
class VariantSummary:
    """One variant in plain words: confirmatory questions by verdict, and the others as hints."""

    name: str
    lines: list[Line]
    hints: list[Clause]


def unit(found: RatingFinding) -> str:
    """Return the unit as the run's report knows it: shares are proportions."""
    return "proportion" if found.unit == "share" else found.unit


def as_finding(found: RatingFinding) -> Finding:
    """Return a finding of the ratings as one of the run's, so that the same pictures and words show both."""
    return Finding(
        explainer="ratings", dataset="study", scorer="ratings", metric=found.question, kind="continuous",
        higher_is_better=found.higher_is_better, unit=unit(found), variant=found.variant,
        reference=found.reference, n=found.n, n_missing=0, groups=found.groups,
        reference_mean=found.reference_mean, variant_mean=found.variant_mean, estimate=found.estimate,
        ci_low=found.ci_low, ci_high=found.ci_high, bound_low=None, bound_high=None, effect_size=found.d_z,
        cliffs_delta=found.cliffs_delta, test="none", p=found.p, p_adjusted=found.p_adjusted, p_rank=None,
        margin=found.margin, p_equivalence=found.p_equivalence,
        p_equivalence_adjusted=found.p_equivalence_adjusted, confirmatory=found.confirmatory,
        correction=found.correction, family=found.family, minimum_detectable=found.minimum_detectable,
        flips=None, flips_low=None, flips_high=None, verdict=found.verdict, n_to_resolve=None,
    )  # fmt: skip


def anchor(found: RatingFinding) -> str:
    """Return the id of the place that has a finding's numbers."""
    return f"result-{found.question}-{_place(found.variant)}"


def _place(name: str) -> str:
    return "".join(character if character.isalnum() else f"_{ord(character):x}" for character in name)


def summaries(analysis: StudyAnalysis) -> list[VariantSummary]:
    """Return every variant's findings in plain words; none where nothing could be compared."""
    told = []
    if not any(found.estimate is not None for found in analysis.findings):
        return []
    for name in analysis.variants:
        own = [f for f in analysis.findings if f.variant == name and f.estimate is not None]
        asked, others = [f for f in own if f.confirmatory], [f for f in own if not f.confirmatory]
        lines = [Line(verdict, _clauses(asked, verdict, analysis)) for verdict in JUDGED]
        moved = [clause for verdict in JUDGED[:2] for clause in _clauses(others, verdict, analysis)]
        told.append(VariantSummary(name, [line for line in lines if line.clauses], moved))
    return told


def _clauses(findings: Sequence[RatingFinding], verdict: Verdict, analysis: StudyAnalysis) -> list[Clause]:
    chosen = [f for f in findings if f.verdict == verdict]
    chosen.sort(key=lambda f: -abs(f.estimate or 0) / f.margin)
    return [Clause(_clause(f, analysis), anchor(f)) for f in chosen]


def _clause(found: RatingFinding, analysis: StudyAnalysis) -> str:
    noun, finding = metric_label(found.question), as_finding(found)
    level = 100 * (1 - analysis.settings.analysis.alpha)
    if found.verdict in ("degraded", "improved"):
        rises = (found.estimate or 0) >= 0
        said = _SAID[found.scale][not rises].format(noun=noun, reference=found.reference)
        return f"{said.format(size(finding))}{ends(finding, level, turned=not rises)}"
    if found.verdict == "unresolved":
        question = analysis.settings.question(found.question)
        return f"{noun} ({_missed(found, largest=question.points - 1 if question.kind == 'likert' else 1)})"
    sign = "" if not found.estimate else "+" if found.estimate > 0 else "\N{MINUS SIGN}"
    inside = ends(finding, level).removeprefix(" (").removesuffix(")")
    return f"{noun} ({', '.join(filter(None, [f'{sign}{size(finding)}', inside]))})"


def _missed(found: RatingFinding, largest: float) -> str:
    """Say how large a change would have been found."""
    detectable = found.minimum_detectable
    if detectable is None or detectable > largest:
        return "no change, however large, could have been found"
    shown = change(detectable, unit(found), width_places(detectable)).lstrip("+")
    counted = "\N{NO-BREAK SPACE}pp" if found.unit == "share" else ""
    return f"detectable ±{shown}{counted}"


def answer(analysis: StudyAnalysis) -> tuple[str, str]:
    """Return the study's answer: one sentence, and what it rests on."""
    judged = [f for f in analysis.findings if f.verdict is not None and f.estimate is not None]
    if not judged:
        return "There is no answer yet.", _why_none(analysis)
    asked, others = [f for f in judged if f.confirmatory], [f for f in judged if not f.confirmatory]
    headline = _headline(asked, analysis) if asked else "Undecided: the study has no confirmatory question."
    hints = _names(others, "degraded", analysis) + _names(others, "improved", analysis)
    if hints and not any(f.verdict in ("degraded", "improved") for f in asked):
        headline += f" Exploratory questions hint at changes in {listing(list(dict.fromkeys(hints)))}."
    return headline, _basis(asked, others, analysis)


def _why_none(analysis: StudyAnalysis) -> str:
    if not analysis.exclusions.seen:
        return "Nobody has answered anything so far."
    if not analysis.participants:
        seen = analysis.exclusions.seen
        whom = "The one participant" if seen == 1 else f"All {seen} participants"
        return f"{whom} with answers {'is' if seen == 1 else 'are'} excluded: see who took part."
    return (
        f"There are answers of {count(analysis.participants, 'participant')} about "
        f"{count(analysis.items, 'source item')}: too few to compare variants."
    )


def _headline(asked: Sequence[RatingFinding], analysis: StudyAnalysis) -> str:
    worse, better = _names(asked, "degraded", analysis), _names(asked, "improved", analysis)
    reference = analysis.reference
    if worse:
        others = [name for name in better if name not in worse]
        also = f", and {listing(others)} better in at least one" if others else ""
        return f"Yes: people rated {listing(worse)} worse than {reference} in at least one question{also}."
    if better:
        return f"Yes: people rated {listing(better)} better than {reference} in at least one question."
    if all(f.verdict == "equivalent" for f in asked):
        return "No: in every question the change was shown to lie within its margin."
    return "No change could be shown, but not every change could be ruled out either."


def _basis(asked: Sequence[RatingFinding], others: Sequence[RatingFinding], analysis: StudyAnalysis) -> str:
    sentences = [
        f"{count(analysis.ratings, 'answer')} of {count(analysis.participants, 'participant')} about "
        f"{count(analysis.items, 'source item')}."
    ]
    if asked:
        tally = Counter(f.verdict for f in asked)
        parts = [f"{tally[verdict]} {verdict}" for verdict in JUDGED if tally[verdict]]
        questions = count(len({f.question for f in asked}), "confirmatory question")
        sentences.append(f"Of {count(len(asked), 'comparison')} in {questions}, {listing(parts)}.")
    if others:
        found = Counter(f.verdict for f in others)
        told = listing([f"{found[v]} {v}" for v in JUDGED[:2] if found[v]]) or "none degraded or improved"
        sentences.append(f"{count(len(others), 'exploratory comparison')} beside them: {told}.")
    if any(f.verdict == "unresolved" for f in asked):
        sentences.append(
            "Unresolved means that these ratings cannot tell a change from none, not that there is none."
        )
    return " ".join(sentences)


def _names(findings: Sequence[RatingFinding], verdict: Verdict, analysis: StudyAnalysis) -> list[str]:
    found = {f.variant for f in findings if f.verdict == verdict}
    return [name for name in analysis.variants if name in found]
