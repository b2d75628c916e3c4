"""The answer, and each variant's part of it, in sentences: confirmatory findings first, told apart from the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from quantxai.records import Finding, Verdict
from quantxai.report.anchors import result_anchor
from quantxai.report.phrases import Place, changed, ends, more_items, phrase, place_of, size
from quantxai.report.text import count, listing, metric_label

__all__ = [
    "JUDGED",
    "Clause",
    "Line",
    "VariantSummary",
    "answer",
    "descriptive_name",
    "places",
    "variant_summary",
]

_MOST_HINTS = 2
"""Exploratory changes that are named; the results have all."""
JUDGED: tuple[Verdict, ...] = ("degraded", "improved", "equivalent", "unresolved")
"""All verdicts, in the order in which they are told."""


@dataclass(frozen=True)
class Clause:
    """What is said of one finding, and where its numbers are."""

    text: str
    anchor: str


@dataclass(frozen=True)
class Line:
    """What a variant's confirmatory findings of one verdict say."""

    verdict: Verdict
    clauses: list[Clause]


@dataclass(frozen=True)
class VariantSummary:
    """One variant in plain words.

    Attributes:
        name: the variant's.
        label: its method and bits, `GPTQ, 3 bit`.
        lines: its confirmatory findings by verdict, changes first.
        exploratory: how the others went, in a sentence; empty where there are none.
        hints: those of them that changed most.
    """

    name: str
    label: str
    lines: list[Line]
    exploratory: str
    hints: list[Clause]

    @property
    def sentence(self) -> str:
        """The confirmatory findings in one sentence."""
        parts = [
            f"{line.verdict}: {'; '.join(clause.text for clause in line.clauses)}" for line in self.lines
        ]
        return f"{'. '.join(part[:1].upper() + part[1:] for part in parts)}." if parts else ""


def places(findings: Sequence[Finding]) -> dict[str, set[Place]]:
    """Return the explainers and data sets each outcome was measured with."""
    found: dict[str, set[Place]] = {}
    for finding in findings:
        found.setdefault(finding.outcome, set()).add((finding.explainer, finding.dataset))
    return found


def variant_summary(
    name: str, label: str, findings: Sequence[Finding], at: Mapping[str, Collection[Place]], alpha: float
) -> VariantSummary:
    """Return a variant's summary.

    Args:
        name: the variant's.
        label: its method and bits.
        findings: those against the parent.
        at: see `places`.
        alpha: 1 - the intervals' level.
    """
    own = [f for f in findings if f.variant == name and f.verdict is not None]
    asked, others = [f for f in own if f.confirmatory], [f for f in own if not f.confirmatory]
    level = 100 * (1 - alpha)
    lines = []
    for verdict in JUDGED:
        chosen = _largest_first([f for f in asked if f.verdict == verdict])
        told = [Clause(_clause(f, place_of(f, at[f.outcome]), level), result_anchor(f)) for f in chosen]
        if told:
            lines.append(Line(verdict, told))
    moved = _largest_first([f for f in others if f.verdict in ("degraded", "improved")])
    hints = [
        Clause(changed(f, place_of(f, at[f.outcome]), level), result_anchor(f)) for f in moved[:_MOST_HINTS]
    ]
    return VariantSummary(name, label, lines, _tally_sentence(others), hints)


def _clause(finding: Finding, where: str, level: float) -> str:
    if finding.verdict in ("degraded", "improved"):
        return changed(finding, where, level)
    noun = f"{phrase(finding).noun}{where}"
    if finding.verdict == "unresolved":
        return f"{noun} ({more_items(finding)})"
    sign = "" if not finding.estimate else "+" if finding.estimate > 0 else "\N{MINUS SIGN}"
    inside = ends(finding, level).removeprefix(" (").removesuffix(")")
    return f"{noun} ({', '.join(filter(None, [f'{sign}{size(finding)}', inside]))})"


def _tally_sentence(findings: Sequence[Finding]) -> str:
    """Say how exploratory findings went: `Of 30 exploratory comparisons 4 degraded and 26 unresolved`."""
    tally = Counter(finding.verdict for finding in findings)
    parts = [f"{tally[verdict]} {verdict}" for verdict in JUDGED if tally[verdict]]
    return f"{listing(parts)} of {count(len(findings), 'exploratory comparison')}" if parts else ""


def _largest_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: -abs(finding.estimate or 0) / finding.margin)


def answer(findings: Sequence[Finding], variants: Sequence[str]) -> tuple[str, str]:
    """Return the run's answer: one sentence, and what it rests on.

    Only confirmatory findings can say yes or no; exploratory ones give hints.

    Args:
        findings: of the variants against the parent, without null controls.
        variants: in the order to name them.
    """
    judged = [finding for finding in findings if finding.verdict is not None]
    if not judged:
        return "There is no answer yet: nothing has been compared.", ""
    asked, others = [f for f in judged if f.confirmatory], [f for f in judged if not f.confirmatory]
    hints = _ordered(variants, [f for f in others if f.verdict in ("degraded", "improved")])
    headline = _headline(asked, variants) if asked else "Undecided: the run has no confirmatory outcome."
    if hints and not any(f.verdict in ("degraded", "improved") for f in asked):
        headline += f" Exploratory outcomes hint at changes in {listing(hints)}."
    return headline, _basis(asked, others)


def _headline(asked: Sequence[Finding], variants: Sequence[str]) -> str:
    worse = _ordered(variants, [f for f in asked if f.verdict == "degraded"])
    better = _ordered(variants, [f for f in asked if f.verdict == "improved"])
    if worse:
        others = [name for name in better if name not in worse]
        also = f", and {listing(others)} better in at least one" if others else ""
        return f"Yes: {listing(worse)} did worse than the unquantized model in at least one confirmatory outcome{also}."
    if better:
        return f"Yes: {listing(better)} did better than the unquantized model in at least one confirmatory outcome."
    if all(f.verdict == "equivalent" for f in asked):
        return "No: every confirmatory outcome stayed within its margin."
    return "No change could be shown, but not every change could be ruled out either."


def _basis(asked: Sequence[Finding], others: Sequence[Finding]) -> str:
    sentences = []
    if asked:
        tally = Counter(finding.verdict for finding in asked)
        parts = [f"{tally[verdict]} {verdict}" for verdict in JUDGED if tally[verdict]]
        outcomes = len({finding.outcome for finding in asked})
        sentences.append(
            f"Of {count(len(asked), 'comparison')} in {count(outcomes, 'confirmatory outcome')}, {listing(parts)}."
        )
    if others:
        changes = Counter(finding.verdict for finding in others)
        told = listing([f"{changes[v]} {v}" for v in ("degraded", "improved") if changes[v]])
        sentences.append(
            f"{'Beside them stand' if asked else 'There are'} {count(len(others), 'exploratory comparison')}, "
            f"{told or 'none of them degraded or improved'}{': hints to be confirmed on new items' if told else ''}."
        )
    if any(finding.verdict == "unresolved" for finding in asked):
        sentences.append(
            "Unresolved means that these items cannot tell a change from none, not that there is none."
        )
    return " ".join(sentences)


def _ordered(variants: Sequence[str], findings: Sequence[Finding]) -> list[str]:
    found = {finding.variant for finding in findings}
    return [name for name in variants if name in found]


def descriptive_name(method: str, bits: float | None) -> str:
    """Return a variant's method and bits as one speaks of them: `GPTQ, 3 bit`."""
    known = _METHODS.get(method, metric_label(method))
    return known if bits is None else f"{known}, {bits:g}\N{NO-BREAK SPACE}bit"


_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "rtn": "round-to-nearest",
    "bnb": "bitsandbytes",
    "rerun": "the unquantized model once more",
    "dtype": "the unquantized model in another float type",
    "noise": "noise on the weights in place of quantization",
}
