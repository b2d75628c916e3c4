"""Shapley values of games with few players, from fewer coalitions than there are.

The Shapley values of a game v are the coefficients of the additive game that fits it best, coalitions S of n
players weighted by (n - 1) / (C(n, |S|) |S| (n - |S|)), and the empty and the full one met exactly (Lundberg
& Lee 2017, arXiv 1705.07874). On all 2^n coalitions the fit is exact; on a sample it is an estimate. The
sample is drawn in pairs of a coalition and its complement, which cancels all interactions of two players
(Covert & Lee 2021, arXiv 2012.01536), and takes whole sizes, the heaviest (1 and n - 1) first, as long as
they fit.

Of the library `shap` this is the KernelExplainer, which wants numpy arrays as inputs, asks for the game's
values in an order of its own and fits one output after another; here a game's values are computed in one
batch and all outputs (the tokens of an explanation) are fitted at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
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
    sizes = list(range(1, players // 2 + 1))
    while sizes and len(rows) + _number(players, sizes[0]) <= most:
        size = sizes.pop(0)
        for members in _all_pairs(players, size):
            rows.append(members)
            weights.append(_mass(players, size) / _number(players, size))
    if sizes:
        masses = np.array([_mass(players, size) for size in sizes])
        drawn: dict[bytes, NDArray[np.bool_]] = {}
        while len(rows) + len(drawn) + 2 <= most:
            members = np.zeros(players, np.bool_)
            members[rng.choice(players, rng.choice(sizes, p=masses / masses.sum()), replace=False)] = True
            drawn |= {members.tobytes(): members, (~members).tobytes(): ~members}
        rows += drawn.values()
        weights += [float(masses.sum()) / max(len(drawn), 1)] * len(drawn)
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


def _all_pairs(players: int, size: int) -> Iterator[NDArray[np.bool_]]:
    for chosen in itertools.combinations(range(players), size):
        members = np.zeros(players, np.bool_)
        members[list(chosen)] = True
        yield members
        if 2 * size != players:
            yield ~members
