"""The order in which one participant sees the pages of a form."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from userstudy.records import Form, Planned

__all__ = ["most_repeats", "order"]


def order(form: Form, seed: int) -> list[Planned]:
    """Return a form's trials in one participant's order.

    Random, and the same for the same form and seed. A repeated page comes at least a third of the
    session after its first showing; attention checks are spread, one in each equal part of the session,
    and none comes first. Of two stimuli side by side the reference is on the left in half of the
    trials, and a repeated pair has its sides exchanged.

    Args:
        form: what is shown.
        seed: the participant's own.
    """
    rng = random.Random(f"order:{form.id}:{seed}")
    kinds = {kind: [t for t in form.trials if t.kind == kind] for kind in ("rating", "repeat", "attention")}
    pages = _apart(kinds["rating"], kinds["repeat"], len(form.trials), rng)
    pages = _sided(pages, rng)
    checks = kinds["attention"]
    rng.shuffle(checks)
    for position, check in zip(_spread(len(checks), len(form.trials), rng), checks, strict=True):
        pages.insert(position, check)
    return pages


def most_repeats(ratings: int, checks: int) -> int:
    """Return how many of so many rated pages can be repeated with a third of the session between."""
    repeats = 0
    while repeats < ratings and repeats < _zone(ratings + repeats + 1, ratings + repeats + 1 + checks):
        repeats += 1
    return repeats


def _zone(pages: int, total: int) -> int:
    """Pages at either end that are a third of the session apart, whichever of them are taken."""
    return (pages + 1 - -(-total // 3)) // 2


def _apart(
    ratings: Sequence[Planned], repeats: Sequence[Planned], total: int, rng: random.Random
) -> list[Planned]:
    """Rated pages and repeated ones: what is repeated lies in the first zone, its repetition in the last."""
    pages = len(ratings) + len(repeats)
    zone = _zone(pages, total)
    again = {trial.stimuli for trial in repeats}
    first = [trial for trial in ratings if trial.stimuli in again]
    rest = [trial for trial in ratings if trial.stimuli not in again]
    for group in (first, rest):
        rng.shuffle(group)
    later = rng.sample(list(repeats), len(repeats))
    placed = dict(zip(rng.sample(range(zone), len(first)), first, strict=True))
    placed |= dict(zip(rng.sample(range(pages - zone, pages), len(later)), later, strict=True))
    others = iter(rest)
    return [placed[i] if i in placed else next(others) for i in range(pages)]


def _sided(pages: Sequence[Planned], rng: random.Random) -> list[Planned]:
    """Exchange the two stimuli of half of the rated pages, and of each repetition against its first showing."""
    pairs = [trial.stimuli for trial in pages if trial.kind == "rating" and len(trial.stimuli) == 2]
    turned = set(rng.sample(pairs, (len(pairs) + rng.randrange(2)) // 2))
    return [
        trial.model_copy(update={"stimuli": trial.stimuli[::-1]})
        if len(trial.stimuli) == 2 and (trial.stimuli in turned) == (trial.kind == "rating")
        else trial
        for trial in pages
    ]


def _spread(checks: int, total: int, rng: random.Random) -> list[int]:
    """Rising positions, one at random in each of so many equal parts, but never the first page."""
    edges = [total * part // checks for part in range(checks + 1)] if checks else []
    return [rng.randrange(max(low, 1), max(high, low + 1, 2)) for low, high in pairwise(edges)]
