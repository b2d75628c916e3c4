"""Two attributions compared, slowly: plain loops over dictionaries from neuron to score."""

from __future__ import annotations

import math

Scores = dict[tuple[int, int], float]


def best(scores: Scores, top: int) -> list[tuple[int, int]]:
    return sorted(scores, key=lambda neuron: -scores[neuron])[:top]


def above(scores: Scores, others: Scores, top: int) -> int:
    """How many of `scores` are no lower than every one of the others' top."""
    count = 0
    for score in scores.values():
        if score >= min(others[neuron] for neuron in best(others, top)):
            count += 1
    return count


def overlap(one: Scores, other: Scores, top: int) -> float:
    ours, theirs = best(one, top), best(other, top)
    both = [neuron for neuron in ours if neuron in theirs]
    return len(both) / (len(ours) + len(theirs) - len(both))


def spearman(one: Scores, other: Scores, top: int) -> float:
    """Pearson's r of mean ranks; a neuron without a score has minus infinity's."""
    either = best(one, top) + [n for n in best(other, top) if n not in best(one, top)]
    ranks = []
    for scores in (one, other):
        values = [scores.get(neuron, -math.inf) for neuron in either]
        ranks.append([sum(v < w for v in values) + (values.count(w) + 1) / 2 for w in values])
    return pearson(*ranks)


def pearson(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return cosine([a - mx for a in x], [b - my for b in y])


def cosine(x: list[float], y: list[float]) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))
