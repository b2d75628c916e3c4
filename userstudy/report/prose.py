"""The methods section of a paper about the study, every number taken from the study."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from quantxai.bibliography import cited
from quantxai.report.text import count, listing, metric_label
from userstudy.analysis.results import RatingFinding, StudyAnalysis
from userstudy.records import Design, Origin
from userstudy.report.flow import Flow
from userstudy.report.tables import ranged
from userstudy.settings import Question, in_language
from userstudy.study import Study

__all__ = ["decision", "exclusion_rules", "methods", "references", "scale_of", "software"]

_SOFTWARE = ("quantxai", "numpy", "scipy", "pandas", "statsmodels", "krippendorff", "gradio", "SQLAlchemy")
_CORRECTIONS = {
    "holm": "by Holm's method (Holm 1979)",
    "bonferroni": "by Bonferroni's method",
    "benjamini-hochberg": "by that of Benjamini and Hochberg 1995",
    "none": "not at all",
}


def methods(study: Study, analysis: StudyAnalysis, flow: Flow) -> list[str]:
    """Return the methods section, a paragraph each: material and design, participants, analysis, software."""
    found = [
        _material(study, study.origin, study.design),
        _questions(study),
        _participants(study, flow, analysis),
    ]
    found.append(decision(analysis))
    found += filter(None, [_checks(analysis), _agreement(analysis), _metrics(analysis)])
    found.append(f"Software: {software()}. Regressions are those of statsmodels (Seabold and Perktold 2010).")
    return found


def references(paragraphs: Sequence[str]) -> list[str]:
    """Return the works that the paragraphs cite, a line each, sorted."""
    return [work.line for work in cited(paragraphs)]


def _material(study: Study, origin: Origin, design: Design) -> str:
    settings, form = study.settings, design.forms[0]
    kinds = [trial.kind for trial in form.trials]
    shown, again, checks = (kinds.count(kind) for kind in ("rating", "repeat", "attention"))
    explainers = sorted({stimulus.explainer for stimulus in study.stimuli.values()})
    pages = (
        "two texts side by side, the reference's and another's"
        if settings.design.show == "pair"
        else "one text"
    )
    kind = {"latin-square": "a Latin square"}.get(design.kind, design.kind.replace("-", " "))
    extra = [
        *([f"{count(again, 'page')} {'was' if again == 1 else 'were'} shown a second time"] if again else []),
        *(
            [f"{count(checks, 'attention check')} {'was' if checks == 1 else 'were'} mixed in"]
            if checks
            else []
        ),
    ]
    also = f"; {listing(extra)}" if extra else ""
    return (
        f"Texts by {len(design.variants)} variants of {origin.model} ({listing(list(design.variants))}) were rated "
        f"blind to the variant ({listing([metric_label(name) for name in explainers])}). {origin.drawn} source items "
        f"were drawn with a seeded generator, stratified by task, label and how {design.reference} fared, from "
        f"{origin.eligible} for which every variant had written a usable text. Variants rotated over items by "
        f"{kind} of {count(len(design.forms), 'form')}: each participant saw "
        f"{shown} source items, each once, in an order of their own{also}. A page showed {pages}."
    )


def scale_of(question: Question, language: str = "en") -> str:
    """Return what answers a question takes, in words."""
    if question.kind == "likert":
        low, high = (in_language(text, language) for text in (question.low, question.high))
        ends = f"1 = {low}, {question.points} = {high}" if low and high else f"1 to {question.points}"
        return f"a scale of {question.points} points, {ends}"
    if question.kind == "pairwise":
        return "one text, the other, or no difference"
    if question.kind == "label":
        return "a guess of the model's answer"
    return "free text"


def _questions(study: Study) -> str:
    language = "en" if "en" in study.settings.languages else study.settings.languages[0]
    told = [
        f"“{in_language(question.text, language)}” ({metric_label(question.id)}; {scale_of(question, language)})"
        for question in study.settings.questions
    ]
    checked = len(study.settings.check)
    before = (
        "After instructions with a worked example" if study.settings.texts.example else "After instructions"
    )
    if checked:
        before += f" and {count(checked, 'question')} to check that they were understood"
    return f"{before}, participants answered about every text: {'; '.join(told)}."


def exclusion_rules(study: Study) -> list[str]:
    """Return the rules of exclusion, as study.toml has them now."""
    rules = study.settings.exclusion
    most = rules.max_attention_failures
    found = [
        f"more than {count(most, 'failed attention check')}" if most else "any failed attention check",
        f"a median of less than {rules.min_seconds_per_page:g} seconds a page",
    ]
    found += ["one and the same answer to everything"] if rules.straight_lining else []
    found += ["an unfinished session"] if rules.incomplete else []
    return found


def _participants(study: Study, flow: Flow, analysis: StudyAnalysis) -> str:
    who = "simulated participants" if flow.simulated else "people"
    gone = [f"{number} {told.partition(';')[0]}" for told, number in flow.left.items()]
    left = f"; of these {listing(gone)}" if gone else ""
    by_rule = [f"{told}: {number}" for told, number in flow.excluded.items()]
    excluded = flow.seen - flow.analysed
    out = f"{excluded} of the {flow.seen} with answers were left out" if excluded else "Nobody was left out"
    told = f" ({'; '.join(by_rule)})" if by_rule else ""
    return (
        f"{flow.consented} {who} agreed to take part{left}; {flow.completed} finished. Rules of exclusion were "
        f"{listing(exclusion_rules(study))}. {out}{told}. Analysed are "
        f"{count(analysis.ratings, 'answer')} of {count(analysis.participants, 'participant')} about "
        f"{count(analysis.items, 'source item')}."
    )


def decision(analysis: StudyAnalysis) -> str:
    """Return how a difference is estimated, tested and judged."""
    how, reference = analysis.settings.analysis, analysis.reference
    paired = analysis.settings.design.show == "pair"
    estimate = (
        f"The preference for a variant over {reference} is the mean of its choices (1: the variant, 0: neither, "
        f"−1: {reference})"
        if paired
        else f"The difference of a variant from {reference} is estimated by least squares with participants and "
        "source items as fixed effects"
    )
    margins = [f"±{how.margin:g} points"] if any(f.unit == "points" for f in analysis.findings) else []
    margins += (
        [f"±{100 * how.margin_share:g} percentage points"]
        if any(f.unit == "share" for f in analysis.findings)
        else []
    )
    return (
        f"{estimate}; its variance is that of other participants plus that of other groups of source items less what "
        "both share (Cameron et al. 2011), with bias-reduced residuals (Bell and McCaffrey 2002; Pustejovsky and "
        "Tipton 2018), so that it holds for participants and items that were not in the study (Clark 1973). "
        f"Intervals ({100 * (1 - how.alpha):g} %), the test of no difference and two one-sided tests of equivalence "
        f"(Schuirmann 1987) within {listing(margins) or 'the margin'} rest on it. {_families(analysis.findings)} "
        f"A change is called equivalent when the corrected p of equivalence is below {how.alpha:g}; otherwise "
        f"degraded or improved when that of no difference is below {how.alpha:g}; otherwise unresolved."
    )


def _families(findings: Sequence[RatingFinding]) -> str:
    parts = []
    for asked, noun in ((True, "confirmatory"), (False, "exploratory")):
        own = next((f for f in findings if f.confirmatory == asked and f.family), None)
        if own is not None:
            parts.append(f"over {count(own.family, f'{noun} comparison')} {_CORRECTIONS[own.correction]}")
    return f"p-values are corrected {listing(parts)}." if parts else "No p-value was computed."


_CHECKS = {
    "p_ordinal": "ordinal regression with errors clustered both ways (McCullagh 1980)",
    "p_gee": "generalized estimating equations for ordinal answers (Heagerty and Zeger 1996)",
    "p_mixed": "a linear mixed model (Laird and Ware 1982)",
    "p_wilcoxon": "signed ranks of participants' mean differences (Wilcoxon 1945)",
}
"""By field of a finding: the model or test that gave it."""


def _checks(analysis: StudyAnalysis) -> str:
    """Say which other models and tests stand beside the one that decides."""
    done = [
        told
        for name, told in _CHECKS.items()
        if any(getattr(found, name) is not None for found in analysis.findings)
    ]
    found = [f"As checks, on which no verdict rests: {listing(done)}."] if done else []
    if any(one.cliffs_delta is not None for one in analysis.findings):
        found.append(
            "Cliff's delta (Cliff 1993) compares all answers about a variant with all about the reference."
        )
    return " ".join(found)


def _agreement(analysis: StudyAnalysis) -> str:
    told = [
        f"{metric_label(a.question)} {ranged(a.alpha, a.ci_low, a.ci_high, sign=False)}"
        for a in analysis.agreement
        if a.question and a.alpha is not None
    ]
    found = []
    if told:
        found.append(
            "Agreement between participants is Krippendorff's alpha with a bootstrap over groups of source items "
            f"(Hayes and Krippendorff 2007): {'; '.join(told)}."
        )
    again = [
        f"{metric_label(one.question)} {ranged(one.kappa, one.kappa_low, one.kappa_high, sign=False)}"
        for one in analysis.intra_rater
        if one.kappa is not None
    ]
    if again:
        found.append(
            "Agreement of participants with themselves is Cohen's kappa over pages shown twice, weighted by squared "
            f"distance for scales (Cohen 1968): {'; '.join(again)}."
        )
    return " ".join(found)


def _metrics(analysis: StudyAnalysis) -> str:
    pooled = [c for c in analysis.correlations if c.variant is None and c.rho is not None]
    if not pooled:
        return ""
    metrics = len({(c.explainer, c.scorer, c.metric) for c in pooled})
    return (
        f"{count(metrics, 'automatic metric')} of the run {'is' if metrics == 1 else 'are'} held against the mean "
        "rating of each text by Spearman's rank correlation, with a bootstrap over groups of source items; p-values "
        "are corrected over all correlations (Benjamini and Hochberg 1995)."
    )


def software() -> str:
    """Return the versions of what the results were computed with."""
    found = [f"Python {platform.python_version()}"]
    for name in _SOFTWARE:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
