"""Latent multi-hop reasoning: accuracy of both hops and their composition, and what is seen inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from explainers.multi_hop import MultiHopRow
from explainers.scorers import rows_of
from explainers.scorers.recall import matches
from quantxai.datasets import Dataset
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["MultiHopScorer"]

# Proportions: 5 points are small against the 10 a sweep is to detect. Nats: 0.1 is a change of a
# probability by a tenth. The divergence goes from 0 to ln 2 = 0.69 nats: 0.03 is 5 % of that.
_PROPORTION, _NATS, _DIVERGENCE = 0.05, 0.1, 0.03


def _metric(
    name: str, better: bool | None, description: str, margin: float, unit: str, binary: bool = False
) -> Metric:
    return Metric(
        name=name,
        kind="binary" if binary else "continuous",
        higher_is_better=better,
        margin=margin,
        unit=unit,
        description=description,
    )


def _outcome(name: str, better: bool | None, description: str) -> Metric:
    return _metric(name, better, description, _PROPORTION, "proportion", binary=True)


def _share(name: str, description: str) -> Metric:
    # Descriptive: a model that names the bridge less, or uses it less, need not answer worse.
    return _metric(name, None, description, _PROPORTION, "proportion")


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
        ),
        _outcome(
            "second_hop_correct",
            True,
            "The completion of the second one-hop prompt starts with the answer or an alias.",
        ),
        _outcome(
            "two_hop_correct",
            True,
            "The completion of the two-hop question starts with the answer or an alias.",
        ),
        _outcome(
            "latent_composition",
            # Not the same items have both hops right in two variants: the pairs left are no sample of either's.
            None,
            "The two-hop question is answered correctly where both hops are; other items have no value.",
        ),
        _metric(
            "entrec",
            None,
            "Log-probability of the bridge's first token, read from the residual stream at the end of its "
            "description: mean over the layers after the middle.",
            _NATS,
            "nats",
        ),
        _metric(
            "entrec_best",
            None,
            "The same at the layer where it is the highest, the embedding left out.",
            _NATS,
            "nats",
        ),
        _share(
            "entity_substitution",
            "Share of the layers after the middle where the bridge is recalled more than at the description of "
            "another one by the same relation.",
        ),
        _share(
            "relation_substitution",
            "Share of the layers after the middle where the bridge is recalled more than at the description of "
            "something else by the same subject.",
        ),
        _metric(
            "cnst",
            None,
            "CnstScore of the next tokens after the question and after the second one-hop prompt: minus their "
            "mean cross entropy. It rises with their likeness, and with their certainty.",
            _NATS,
            "nats",
        ),
        _metric(
            "jsd",
            None,
            "Jensen-Shannon divergence of the same two distributions: 0 where they are equal, at most 0.69.",
            _DIVERGENCE,
            "nats",
        ),
        _share(
            "causal_link",
            "Share of the layers looked at where recalling the bridge more would make the question's next "
            "tokens more consistent with those after the one-hop prompt.",
        ),
        _outcome(
            "failure",
            # It lies in data and tokenizer, the same for every variant, unless numbers overflow.
            None,
            "Nothing could be measured inside: the description could not be located, the answer is empty, the "
            "bridge has no first token of its own, or the model's numbers are not finite.",
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
