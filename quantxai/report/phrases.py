"""Outcomes and changes in words that need no statistics: `counterfactuals flip 11 points less often`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from quantxai.records import Finding, Trend
from quantxai.report.text import metric_label, p_value, width_places

__all__ = [
    "Phrase",
    "changed",
    "ends",
    "more_items",
    "phrase",
    "place_of",
    "rounded",
    "size",
    "trend_sentence",
]

Place = tuple[str, str]
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Phrase:
    """How one outcome is spoken of.

    Attributes:
        noun: its name in a sentence.
        more: what is said when it has risen, with {} for by how much.
        less: the same when it has fallen.
    """

    noun: str
    more: str
    less: str


def _often(noun: str, what: str) -> Phrase:
    return Phrase(noun, f"{what} {{}} more often", f"{what} {{}} less often")


def _by(noun: str, what: str, more: str, less: str) -> Phrase:
    return Phrase(noun, f"{what} {more} by {{}}", f"{what} {less} by {{}}")


_PHRASES = {
    "flips.parent_soft_flip": _often("counterfactual flips", "counterfactuals flip"),
    "flips.parent_hard_flip": _often(
        "counterfactuals that reach the label asked for", "counterfactuals reach the label asked for"
    ),
    "flips.own_soft_flip": _often(
        "counterfactual flips in the variant's own eyes", "counterfactuals flip the variant's own label"
    ),
    "flips.own_hard_flip": _often(
        "counterfactuals that reach the label asked for in the variant's own eyes",
        "counterfactuals reach the label asked for, says the variant itself,",
    ),
    "flips.independent_soft_flip": _often(
        "counterfactual flips, judged independently", "counterfactuals flip an independent judge's label"
    ),
    "flips.independent_hard_flip": _often(
        "counterfactuals that reach the label asked for, judged independently",
        "counterfactuals reach the label asked for, says an independent judge,",
    ),
    "flips.failure": _often("failed counterfactuals", "no usable counterfactual is written"),
    "edits.edit_distance": Phrase(
        "size of the edits", "counterfactual edits change {} more", "counterfactual edits change {} less"
    ),
    "edits.edit_distance_normalized": Phrase(
        "size of the edits",
        "counterfactual edits change {} more of the text",
        "counterfactual edits change {} less of the text",
    ),
    "perplexity.nll": _by("fluency of counterfactuals", "counterfactuals are", "less fluent", "more fluent"),
    "similarity.cosine": _by(
        "likeness of counterfactual and text", "counterfactuals are", "closer to the text", "farther from it"
    ),
    "recall.recall": _often("recall of facts", "facts are recalled"),
    "recall.first_token_recall": _often(
        "right beginnings of facts", "the right answer's beginning is put first"
    ),
    "recall.logprob": _by(
        "log-probability of facts", "the right answer's log-probability is", "higher", "lower"
    ),
    "recall.reciprocal_rank": _by(
        "rank of facts", "the right answer's reciprocal rank is", "higher", "lower"
    ),
    "prediction.accuracy": _often("accuracy of predictions", "predictions are right"),
    "prediction.said_accuracy": _often("accuracy of spoken answers", "the spoken answer is right"),
    "prediction.said_agrees": _often(
        "agreement of spoken and likeliest answer", "the spoken answer is the likeliest one"
    ),
    "prediction.failure": _often("missing explanations", "no explanation is given"),
    "simulatability.gain": Phrase(
        "what explanations tell a judge",
        "explanations help a judge to predict the answer {} more often",
        "explanations help a judge to predict the answer {} less often",
    ),
    "simulatability.simulated": _often("simulatability", "a judge predicts the answer from the explanation"),
    "rouge.rouge_l": _by(
        "overlap with gold explanations", "the overlap with gold explanations is", "larger", "smaller"
    ),
    "bertscore.sentence_cosine": _by(
        "likeness to gold explanations", "the likeness to gold explanations is", "larger", "smaller"
    ),
    "bertscore.bertscore_f1": _by(
        "match with gold explanations", "the match with gold explanations is", "better", "worse"
    ),
    "bartscore.bartscore": _by(
        "closeness to gold explanations (BARTScore)",
        "the closeness to gold explanations is",
        "larger",
        "smaller",
    ),
    "self_consistency.majority_accuracy": _often(
        "accuracy of the majority of samples", "most samples lead to the right prediction"
    ),
    "cc_shap.cc_shap": _by(
        "faithfulness of explanations (CC-SHAP)",
        "the faithfulness of explanations (CC-SHAP) is",
        "higher",
        "lower",
    ),
    "chain_of_thought.same_answer_early": _often(
        "answers that stand before the chain of thought ends",
        "the answer stands before the chain of thought ends",
    ),
    "chain_of_thought.changed_by_mistake": _often(
        "answers that follow a mistake in the chain of thought",
        "a mistake in the chain of thought changes the answer",
    ),
    "biased_features.switched_to_suggestion": _often(
        "answers that give in to a wrong suggestion", "answers give in to a wrong suggestion"
    ),
    "multi_hop.two_hop_correct": _often(
        "answers to two-hop questions", "two-hop questions are answered right"
    ),
    "multi_hop.first_hop_correct": _often("answers to first hops", "first hops are answered right"),
    "multi_hop.second_hop_correct": _often("answers to second hops", "second hops are answered right"),
    "tigerscore.tigerscore": _by(
        "quality of explanations (TIGERScore)", "the TIGERScore is", "better", "worse"
    ),
}
"""By outcome. One without a phrase is called by its name, and is higher or lower."""


def phrase(finding: Finding) -> Phrase:
    """Return how the finding's outcome is spoken of."""
    noun = metric_label(finding.metric)
    return _PHRASES.get(finding.outcome) or Phrase(noun, f"{noun} is {{}} higher", f"{noun} is {{}} lower")


def changed(finding: Finding, where: str = "", level: float = 95) -> str:
    """Return what has changed: `counterfactuals flip 11 points less often (95 % CI 4 to 18)`.

    The interval is turned the way of the change: a negative end lies on the other side of none.

    Args:
        finding: with an estimate.
        where: which data set, where that is not clear; see `place_of`.
        level: of the interval, percent.
    """
    rises = (finding.estimate or 0) >= 0
    said = phrase(finding).more if rises else phrase(finding).less
    return f"{said.format(size(finding))}{where}{ends(finding, level, turned=not rises)}"


def ends(finding: Finding, level: float, *, turned: bool = False) -> str:
    """Return the interval in brackets, ` (95 % CI 4 to 18)`; empty without one.

    Args:
        finding: whose it is.
        level: percent.
        turned: whether a fall counts as positive.
    """
    if finding.ci_low is None or finding.ci_high is None:
        return ""
    low, high = (-finding.ci_high, -finding.ci_low) if turned else (finding.ci_low, finding.ci_high)
    places = _places(finding)
    told = " to ".join(_number(end, finding, places) for end in (low, high))
    return f" ({level:g}\N{NO-BREAK SPACE}% CI {told})"


def size(finding: Finding) -> str:
    """Return how large the change is, without its sign: `11 points`, `0.40 nats`."""
    number = _number(abs(finding.estimate or 0), finding, _places(finding))
    unit = "points" if finding.unit == "proportion" else finding.unit
    # A score's name is no unit to count in.
    counted = unit in ("points", "tokens", "words", "nats", "nats per token", "errors", "neurons")
    return f"{number}\N{NO-BREAK SPACE}{unit}" if counted else number


def _places(finding: Finding) -> int:
    """Return decimal places: whole points of a share, unless that would leave a 0."""
    known = [value for value in (finding.estimate, finding.ci_low, finding.ci_high) if value is not None]
    if finding.unit == "proportion":
        return 0 if all(round(100 * abs(value)) >= 1 or value == 0 for value in known) else 1
    places = width_places(max(known) - min(known)) if known else None
    return 2 if places is None else places


def _number(value: float, finding: Finding, places: int) -> str:
    shown = f"{100 * value if finding.unit == 'proportion' else value:,.{places}f}"
    return shown.replace("-", MINUS) if any(d in shown for d in "123456789") else shown.lstrip("-")


def more_items(finding: Finding) -> str:
    """Return what an unresolved finding lacks: `about 240 more items needed`."""
    if finding.n_to_resolve is None:
        return "how many more items are needed cannot be said"
    number = rounded(max(finding.n_to_resolve - finding.n, 1))
    return f"about {number:,} more item{'' if number == 1 else 's'} needed"


def rounded(number: int) -> int:
    """Return a number rounded up to two digits that count: what is needed is no better known."""
    step: int = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // step) * step


def place_of(finding: Finding, places: Collection[Place]) -> str:
    """Return which of the places that the outcome was measured at it is, ` on news`; empty for the only one.

    Args:
        finding: whose place.
        places: explainer and data set of every measurement of the outcome.
    """
    if len(set(places)) < 2:
        return ""
    if sum(dataset == finding.dataset for _, dataset in set(places)) < 2:
        return f" on {finding.dataset}"
    return f" on {finding.dataset} ({metric_label(finding.explainer)})"


def trend_sentence(trend: Trend, alpha: float) -> str:
    """Return whether an outcome changes with a method's bits: `gptq: better with more bits (tau ...)`.

    Args:
        trend: the test's result.
        alpha: level of the corrected p; 1 - alpha is that of the interval.
    """
    if trend.tau is None or trend.p_adjusted is None:
        return f"{trend.method}: too little data for a trend over bits"
    rises = trend.tau > 0
    better = {None: "higher" if rises else "lower", rises: "better"}.get(trend.higher_is_better, "worse")
    said = f"{better} with more bits" if trend.p_adjusted < alpha else "no trend over bits beyond chance"
    interval = ""
    if trend.ci_low is not None and trend.ci_high is not None:
        ends = f"{_signed(trend.ci_low)} to {_signed(trend.ci_high)}"
        interval = f", {100 * (1 - alpha):g}\N{NO-BREAK SPACE}% CI {ends}"
    p = p_value(trend.p_adjusted)
    numbers = f"τ {_signed(trend.tau)}{interval}, adjusted p {p}"
    return f"{trend.method}: {said} ({numbers.replace('-', MINUS)})"


def _signed(tau: float) -> str:
    """Return a tau with its sign, and none at 0."""
    text = f"{tau:+.2f}"
    return text if float(text) else "0.00"
