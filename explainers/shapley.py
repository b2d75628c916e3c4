"""Shapley values of games with few players, from fewer coalitions than there are.

The Shapley values of a game v are the coefficients of the additive game that fits it best, coalitions S of n
players weighted by (n - 1) / (C(n, |S|) |S| (n - |S|)), and the empty and the full one met exactly (Lundberg
& Lee 2017, arXiv 1705.07874). On all 2^n coalitions the fit is exact; on a sample it is an estimate. The
sample is drawn in pairs of a coalition and its complement, which cancels all interactions of two players
(Covert & Lee 2021, arXiv 2012.01536). It holds all of size 1 and n - 1; of the other sizes as many as their
share of the weight (drawing sizes at random, too, would only add to the error).

Of the library `shap` this is the KernelExplainer, which wants numpy arrays as inputs, asks for the game's
values in an order of its own and fits one output after another; here a game's values are computed in one
batch and all outputs (the tokens of an explanation) are fitted at once.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coalitions", "coalitions", "shapley_values"]


class Coalitions(NamedTuple):
    """What a game is to be evaluated on."""

    members: NDArray[np.bool_]
    """Who is in [coalitions, players]; the first is empty, the second full."""
    weights: NDArray[np.float64]
    """How much each counts in the fit [coalitions]; 0 for the first two, which are met exactly."""


def coalitions(players: int, most: int, rng: np.random.Generator) -> Coalitions:
    """Return all coalitions, or a sample of `most` where there are more.

    Args:
        players: their number n, at least 1.
        most: at least 2 n + 2, so that the fit has one solution.
        rng: draws the sample.
    """
    rows: list[NDArray[np.bool_]] = [np.zeros(players, np.bool_), np.ones(players, np.bool_)]
    weights = [0.0, 0.0]
    sizes = range(1, players // 2 + 1)
    for size in sizes:
        # In proportion to the weight of each size among those left; the heaviest, 1, is complete.
        share = _mass(players, size) / sum(_mass(players, other) for other in sizes if other >= size)
        number = min(_number(players, size), 2 * round((most - len(rows)) * share / 2))
        number = _number(players, size) if size == 1 else number
        rows += _all(players, size) if number == _number(players, size) else _some(players, size, number, rng)
        weights += [_mass(players, size) / max(number, 1)] * number
    return Coalitions(np.array(rows), np.array(weights))


def shapley_values(asked: Coalitions, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Shapley values, or their estimates.

    Args:
        asked: the coalitions.
        values: the game's value for each of them, for any number of games [coalitions, games].

    Returns:
        [players, games]; each game's sum to its value for all players less its value for none.
    """
    empty, full = values[0], values[1]
    inside = asked.members[2:].astype(np.float64)
    # The last player's value is what the others leave of the total: so the sum is met exactly.
    root = np.sqrt(asked.weights[2:])[:, None]
    others = root * (inside[:, :-1] - inside[:, -1:])
    wanted = root * (values[2:] - empty - inside[:, -1:] * (full - empty))
    found = np.linalg.lstsq(others, wanted, rcond=None)[0]
    return np.vstack([found, full - empty - found.sum(axis=0)])


def _number(players: int, size: int) -> int:
    """How many coalitions have this size or its complement's."""
    return math.comb(players, size) * (1 if 2 * size == players else 2)


def _mass(players: int, size: int) -> float:
    """The weight of all of these together."""
    return _number(players, size) * (players - 1) / (math.comb(players, size) * size * (players - size))


def _all(players: int, size: int) -> list[NDArray[np.bool_]]:
    """Every coalition of this size or its complement's."""
    both = {size, players - size}
    chosen = (c for each in both for c in itertools.combinations(range(players), each))
    return [np.isin(np.arange(players), members) for members in chosen]


def _some(players: int, size: int, number: int, rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """An even number of them, distinct, each with its complement."""
    drawn: dict[bytes, NDArray[np.bool_]] = {}
    while len(drawn) < number:
        members = np.isin(np.arange(players), rng.choice(players, size, replace=False))
        drawn |= {members.tobytes(): members, (~members).tobytes(): ~members}
    return list(drawn.values())
