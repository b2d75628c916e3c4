"""Latent multi-hop reasoning: accuracy of both hops and their composition, and what is seen inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from explainers.multi_hop import MultiHopRow
from explainers.scorers import rows_of
from explainers.scorers.recall import matches
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["MultiHopScorer"]


class _Scale(NamedTuple):
    """A unit, the margin of what is measured in it, and the reason for that margin."""

    unit: str
    margin: float
    reason: str


_LAYERS = _Scale("proportion", 0.05, "1 layer in 20, or every layer at 1 question in 20.")
_BRIDGE = _Scale("nats", 0.1, "A tenth of the probability of the bridge's first token.")
_CROSS_ENTROPY = _Scale(
    "nats", 0.1, "A tenth of the probability (geometric mean) that each prompt gives the other's next tokens."
)
_DIVERGENCE = _Scale("nats", 0.03, "About a twentieth of its range, which ends at ln 2 = 0.69.")


def _outcome(
    name: str, better: bool | None, description: str, reason: str, confirmatory: bool = False
) -> Metric:
    return Metric(
        name=name,
        kind="binary",
        higher_is_better=better,
        margin=0.05,
        margin_reason=reason,
        confirmatory=confirmatory,
        unit="proportion",
        description=description,
    )


def _inner(name: str, description: str, scale: _Scale) -> Metric:
    # Descriptive: a model that names the bridge less, or uses it less, need not answer worse.
    return Metric(
        name=name,
        kind="continuous",
        higher_is_better=None,
        margin=scale.margin,
        margin_reason=scale.reason,
        unit=scale.unit,
        description=description,
    )


class MultiHopScorer(Scorer):
    """Yang et al. 2024 (arXiv 2402.16837); formulas in docs/methods.md.

    The paper reports for each layer at how many items EntRec is the greater one. Here an item has the share
    of layers where it is, among those after the middle: their mean is the mean of the paper's numbers over
    these layers. The rows hold all layers.
    """

    method: ClassVar[str] = "multi_hop"
    summary: ClassVar[str] = (
        "two-hop accuracy and composition; is the bridge entity recalled, and is it used?"
    )
    explainers: ClassVar[frozenset[str]] = frozenset({"multi_hop"})
    metrics: ClassVar[tuple[Metric, ...]] = (
        _outcome(
            "first_hop_correct",
            True,
            "The completion of the first one-hop prompt starts with the bridge entity or an alias.",
            "1 bridge in 20 lost or gained: as much as the margin of a fact recalled.",
        ),
        _outcome(
            "second_hop_correct",
            True,
            "The completion of the second one-hop prompt starts with the answer or an alias.",
            "1 answer in 20 lost or gained: as much as the margin of a fact recalled.",
        ),
        _outcome(
            "two_hop_correct",
            True,
            "The completion of the two-hop question starts with the answer or an alias.",
            "1 question in 20 lost or gained: whoever asks 20 meets one other answer.",
            confirmatory=True,
        ),
        _outcome(
            "latent_composition",
            # Not the same items have both hops right in two variants: the pairs left are no sample of either's.
            None,
            "The two-hop question is answered correctly where both hops are; other items have no value.",
            "1 in 20 of the questions whose hops are both known.",
        ),
        _inner(
            "entrec",
            "Log-probability of the bridge's first token, read from the residual stream at the end of its "
            "description: mean over the layers after the middle.",
            _BRIDGE,
        ),
        _inner(
            "entrec_best",
            "The same at the layer where it is the highest, the embedding left out.",
            _BRIDGE,
        ),
        _inner(
            "entity_substitution",
            "Share of the layers after the middle where the bridge is recalled more than at the description of "
            "another one by the same relation.",
            _LAYERS,
        ),
        _inner(
            "relation_substitution",
            "Share of the layers after the middle where the bridge is recalled more than at the description of "
            "something else by the same subject.",
            _LAYERS,
        ),
        _inner(
            "cnst",
            "CnstScore of the next tokens after the question and after the second one-hop prompt: minus their "
            "mean cross entropy. It rises with their likeness, and with their certainty.",
            _CROSS_ENTROPY,
        ),
        _inner(
            "jsd",
            "Jensen-Shannon divergence of the same two distributions: 0 where they are equal, at most 0.69.",
            _DIVERGENCE,
        ),
        _inner(
            "causal_link",
            "Share of the layers looked at where recalling the bridge more would make the question's next "
            "tokens more consistent with those after the one-hop prompt.",
            _LAYERS,
        ),
        _outcome(
            "failure",
            # It lies in data and tokenizer, the same for every variant, unless numbers overflow.
            None,
            "Nothing could be measured inside: the description could not be located, the answer is empty, the "
            "bridge has no first token of its own, or the model's numbers are not finite.",
            "1 question in 20 of which nothing is seen inside.",
        ),
    )

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores."""
        listed: dict[str, list[str]] = {}
        for row in rows_of(rows, MultiHopRow):
            if row.problem is not None:
                listed.setdefault(row.problem, []).append(row.item)
            for name, value in {**_accuracies(row), **_inside(row)}.items():
                yield Score(row.item, row.group, name, value)
        if listed:
            context.note("nothing_measured", listed)


def _accuracies(row: MultiHopRow) -> dict[str, float | None]:
    first = _correct(row.first_completion, [row.bridge, *row.bridge_aliases])
    second = _correct(row.second_completion, [row.gold, *row.aliases])
    both = _correct(row.two_hop_completion, [row.gold, *row.aliases])
    return {
        "first_hop_correct": first,
        "second_hop_correct": second,
        "two_hop_correct": both,
        "latent_composition": both if first and second else None,
    }


def _correct(completion: str, answers: Sequence[str]) -> float | None:
    """Null where there is nothing to compare with."""
    return float(matches(completion, answers)) if any(a.strip() for a in answers) else None


def _inside(row: MultiHopRow) -> dict[str, float | None]:
    upper = slice((len(row.entrec) + 1) // 2, None)
    return {
        "entrec": _mean(row.entrec[upper]),
        "entrec_best": max(row.entrec[1:], default=None),
        "entity_substitution": _exceeds(row.entrec[upper], row.entrec_entity[upper]),
        "relation_substitution": _exceeds(row.entrec[upper], row.entrec_relation[upper]),
        "cnst": row.cnst,
        "jsd": row.jsd,
        "causal_link": _mean([float(d > 0) for d in row.causal_derivatives]),
        "failure": float(row.problem is not None),
    }


def _exceeds(values: Sequence[float], others: Sequence[float]) -> float | None:
    """The share of places where a value is the greater one; null where there is nothing to compare with."""
    if not others:
        return None
    return _mean([float(value > other) for value, other in zip(values, others, strict=True)])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
