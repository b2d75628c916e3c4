"""Which variant stands in which slot: Latin squares, and cyclic difference families where slots are few.

A *base sequence* says which variant each slot of a session has; its v rotations (every entry + f modulo
v) are v forms. Over them each slot has each variant exactly once, whatever the sequence is: with the
sequence 0, 1, 2, ... these are the rows of the cyclic Latin square. Whether each *pair* of variants comes
together equally often depends on the sequence: it does where the part of it that is no whole cycle is a
cyclic difference family, that is, where the differences of its entries hold every number from 1 to v - 1
equally often (Bose 1939, doi:10.1111/j.1469-1809.1939.tb02219.x; Colbourn and Dinitz, Handbook of
Combinatorial Designs, 2nd ed., VI.16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, combinations_with_replacement

__all__ = ["base_sequences", "difference_family", "windows"]

_MOST_BLOCKS = 20_000
"""Base blocks looked at; above it (18 variants in blocks of 9 have 24,310) the search is not begun."""
_MOST_TRIES = 200_000
"""Families tried of one size: a fraction of a second."""


def difference_family(v: int, k: int, largest: int = 5) -> tuple[tuple[int, ...], ...] | None:
    """Return base blocks whose rotations hold every pair of 0 ... v - 1 equally often.

    Args:
        v: number of variants, at least 2.
        k: size of a block, 1 to v.
        largest: most base blocks of the family; a design has v forms for each.

    Returns:
        The smallest family found, its blocks rising and beginning with 0; None where there is none of
        at most that many blocks, or there are too many to look through.
    """
    if k in (1, v - 1, v):
        return (tuple(range(k)),)
    if math.comb(v - 1, k - 1) > _MOST_BLOCKS:
        return None
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    for rest in combinations(range(1, v), k - 1):
        known.setdefault(_differences((0, *rest), v), (0, *rest))
    for size in range(1, largest + 1):
        wanted, remainder = divmod(size * k * (k - 1), v - 1)
        if remainder or math.comb(len(known) + size - 2, size - 1) > _MOST_TRIES:
            continue
        # The last block is looked up rather than tried: it has to fill up what the others lack.
        for others in combinations_with_replacement(known, size - 1):
            lacking = tuple(wanted - sum(found) for found in zip(*others, strict=True))
            last = known.get(lacking or (wanted,) * (v // 2))
            if last is not None:
                return (*(known[vector] for vector in others), last)
    return None


def base_sequences(slots: int, v: int, largest: int = 5) -> tuple[tuple[int, ...], ...]:
    """Return base sequences of a session's slots.

    Whole cycles through the variants come first; the slots left over are a difference family where
    one is found, otherwise the one block that comes closest to it. Where there are slots for all variants, one
    sequence is made: pairs are balanced as well as one can.

    Args:
        slots: source items a participant sees.
        v: number of variants.
        largest: most sequences.
    """
    cycles, rest = divmod(slots, v)
    if not rest:
        return (tuple(range(v)) * cycles,)
    family = difference_family(v, rest, 1 if cycles else largest) or (_most_even(v, rest),)
    return tuple(tuple(range(v)) * cycles + block for block in family)


def windows(items: int, slots: int) -> list[list[int]]:
    """Return which of the items (indices) are seen together, each equally often, in as few sets as that takes.

    Consecutive stretches of the items written down again and again: items / gcd(items, slots) of them.
    """
    count = items // math.gcd(items, slots)
    return [[(start * slots + slot) % items for slot in range(slots)] for start in range(count)]


def _most_even(v: int, k: int) -> tuple[int, ...]:
    if math.comb(v - 1, k - 1) > _MOST_BLOCKS:
        return tuple(range(k))
    blocks = ((0, *rest) for rest in combinations(range(1, v), k - 1))
    return min(blocks, key=lambda block: (max(found := _differences(block, v)) - min(found), block))


def _differences(block: Sequence[int], v: int) -> tuple[int, ...]:
    """How often each difference 1 ... v // 2 occurs, in order; the others mirror them."""
    counts = [0] * v
    for x in block:
        for y in block:
            counts[(x - y) % v] += 1
    return tuple(counts[1 : v // 2 + 1])
