"""What a reader must know before quoting a number of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from quantxai.report.text import count, listing, metric_label
from userstudy.analysis.results import StudyAnalysis
from userstudy.records import Origin, Stimulus
from userstudy.report.flow import Flow

__all__ = ["caveats", "simulated_warning"]

_LEAST_ALPHA = 0.667
"""The lowest alpha from which tentative conclusions may be drawn (Krippendorff 2018, chapter 12)."""


def simulated_warning(flow: Flow) -> list[str]:
    """Return the warning that nobody took part, where participants are simulated."""
    if not flow.simulated:
        return []
    return ["The participants are simulated: nothing here says anything about people or about the variants."]


def caveats(
    analysis: StudyAnalysis, flow: Flow, origin: Origin, stimuli: Mapping[str, Stimulus]
) -> list[str]:
    """Return the caveats, a sentence or two each.

    Args:
        analysis: what was found.
        flow: who took part.
        origin: where the material comes from.
        stimuli: the material.
    """
    found = simulated_warning(flow)
    wanted = analysis.settings.recruitment.participants
    if flow.completed < wanted:
        found.append(
            f"{flow.completed} of {wanted} participants wanted have finished. Verdicts that are looked at while "
            "participants come in, and reported when they please, are found by chance more often than alpha says."
        )
    found += _material(analysis, origin, stimuli)
    differ = _differing(analysis)
    if differ:
        found.append(
            f"Whom the rules leave out decides {count(len(differ), 'verdict')}: {listing(differ)} would be another "
            "one over everybody's ratings. Both are among the exclusions."
        )
    low = [
        f"{metric_label(a.question)} {a.alpha:.2f}".replace("-", "\N{MINUS SIGN}")
        for a in analysis.agreement
        if a.question and a.alpha is not None and a.alpha < _LEAST_ALPHA
    ]
    if low:
        found.append(
            f"Participants agree little with each other (Krippendorff's alpha: {listing(low)}). Means over many of "
            "them can be compared all the same; a single rating says little about a text."
        )
    found += analysis.notes
    compared = [one for one in analysis.findings if one.estimate is not None]
    notes = Counter(note for one in compared for note in one.notes)
    found += [
        note if number == len(compared) else f"{note} ({count(number, 'comparison')})"
        for note, number in notes.items()
    ]
    if any(one.verdict == "unresolved" for one in compared):
        found.append(
            "Unresolved is not unchanged: each such result says how large a change would have been found."
        )
    return list(dict.fromkeys(found))


def _material(analysis: StudyAnalysis, origin: Origin, stimuli: Mapping[str, Stimulus]) -> list[str]:
    """Say what of the run was not rated, and what cannot differ."""
    found = []
    left_out = {name: number for name, number in origin.left_out.items() if number}
    if left_out:
        told = listing([f"{name} {number}" for name, number in left_out.items()])
        found.append(
            "Rated are only source items for which every variant wrote something that could be used; others were "
            f"left out for want of a text ({told}). A variant that fails often is rated by its successes: how "
            "often each fails is measured in the run."
        )
    texts = {(s.item, s.variant): s.parts for s in stimuli.values()}
    same = sum(
        parts == texts.get((item, analysis.reference))
        for (item, variant), parts in texts.items()
        if variant in analysis.variants
    )
    total = sum(variant in analysis.variants for _, variant in texts)
    if same:
        found.append(
            f"In {same} of {total} cases the variant wrote word for word what {analysis.reference} wrote: what "
            "differs between their ratings is chance."
        )
    return found


def _differing(analysis: StudyAnalysis) -> list[str]:
    before = {(f.question, f.variant): f.verdict for f in analysis.findings_without_exclusions}
    return [
        f"{metric_label(one.question)} of {one.variant}"
        for one in analysis.findings
        if before.get((one.question, one.variant), one.verdict) != one.verdict
    ]
