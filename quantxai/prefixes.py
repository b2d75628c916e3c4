"""Prompts that begin alike: what they share is computed once and kept for later calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

__all__ = [
    "LOGIT_BYTES",
    "MIN_PREFIX",
    "Prefixes",
    "Row",
    "States",
    "fitting",
    "in_batch_order",
    "shared_prefixes",
]

MIN_PREFIX = 16
"""Shorter shared prefixes cost more bookkeeping than they save."""
KEPT_TOKENS = 4096
"""Tokens of computed prefixes kept for later calls."""
BUSY_TOKENS = 512
"""A batch of this many tokens runs matrix products at full speed on a CPU."""
LOGIT_BYTES = 2**28
"""Most memory a batch's scored logits may take, bytes (float32)."""


@dataclass(frozen=True)
class Row:
    """One prompt of a batch: its place in the call, its shared prefix and what follows it."""

    index: int
    prefix: tuple[int, ...]
    rest: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the whole prompt."""
        return len(self.prefix) + len(self.rest)


def shared_prefixes(prompts: Sequence[Sequence[int]], reserve: Sequence[int]) -> list[Row]:
    """Split every prompt into a prefix shared with its neighbours and the rest.

    Args:
        prompts: token ids.
        reserve: for each prompt, the number of last tokens that must stay in the rest (>= 1).

    Returns:
        Rows ordered so that equal prefixes, then similar lengths, stand together.
    """
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    rows: list[Row] = []
    start = 0
    while start < len(order):
        first = prompts[order[start]]
        size = len(first) - reserve[order[start]]
        end = start + 1
        while end < len(order):
            other = prompts[order[end]]
            common = _common(first, other, min(size, len(other) - reserve[order[end]]))
            if common < MIN_PREFIX:
                break
            size, end = common, end + 1
        cut = size if end - start > 1 else 0
        rows += [Row(i, tuple(prompts[i][:cut]), tuple(prompts[i][cut:])) for i in order[start:end]]
        start = end
    return sorted(rows, key=in_batch_order)


def in_batch_order(row: Row) -> tuple[bool, int, tuple[int, ...], int]:
    """Return what rows are sorted by: what has to be computed.

    Padding before a prefix costs attention only, padding the rest costs all.
    """
    return bool(row.prefix), len(row.rest), row.prefix, row.index


def _common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    for i in range(max(limit, 0)):
        if a[i] != b[i]:
            return i
    return max(limit, 0)


States: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"
"""Keys and values [1, heads, tokens, dimension] of one prefix, layer by layer."""


class Prefixes:
    """The prefixes computed last, so that later calls with the same instructions find them."""

    def __init__(self) -> None:
        self._states: OrderedDict[tuple[int, ...], States] = OrderedDict()

    def find(self, prefix: tuple[int, ...]) -> States | None:
        """Return a prefix's states: a leading part of known states serves as well."""
        for known, states in self._states.items():
            if known[: len(prefix)] == prefix:
                self._states.move_to_end(known)
                return [(k[:, :, : len(prefix)], v[:, :, : len(prefix)]) for k, v in states]
        return None

    def fit(self, row: Row, reserve: int) -> Row:
        """Cut a row where a known prefix ends, if that keeps most of what it shares."""
        tokens = row.prefix + row.rest
        limit = len(row.prefix) or len(tokens) - reserve
        cut = max((_common(tokens, known, min(limit, len(known))) for known in self._states), default=0)
        if cut < max(MIN_PREFIX, 0.75 * len(row.prefix)):
            return row
        return Row(row.index, tokens[:cut], tokens[cut:])

    def look_up(
        self,
        prefixes: Sequence[tuple[int, ...]],
        run: Callable[[Sequence[tuple[int, ...]]], list[States]],
    ) -> dict[tuple[int, ...], States]:
        """Return the states of prefixes; those not known are computed, and kept.

        The ones longest unused beyond KEPT_TOKENS are forgotten, but are in what is returned all the same.
        """
        found = {p: states for p in prefixes if (states := self.find(p)) is not None}
        missing = [p for p in prefixes if p not in found]
        if missing:
            made = dict(zip(missing, run(missing), strict=True))
            found |= made
            self._states.update(made)
            while len(self._states) > len(missing) and sum(map(len, self._states)) > KEPT_TOKENS:
                self._states.popitem(last=False)
        return found


def fitting(rows: Sequence[Row], budget: int, extra: int, running: int = 0, width: int = 0) -> int:
    """Return how many of the first rows make the next batch; at least one, unless they join another.

    Within the token budget, padded to the longest; without mixing rows with and without a prefix, since
    the latter would only be padding there; and, when nothing is to be generated, only until padding
    would exceed a fifth of a batch that is large enough to keep the processor busy.

    Args:
        rows: those waiting, in batch order.
        budget: most tokens of the batch.
        extra: tokens that are generated after each row.
        running: rows of the batch they join.
        width: its tokens a row so far.
    """
    prefix = rest = count = 0
    for row in rows:
        prefix, rest = max(prefix, len(row.prefix)), max(rest, len(row.rest))
        over = (running + count + 1) * (max(prefix + rest, width) + extra) > budget
        wasteful = not extra and count * rest >= BUSY_TOKENS and len(rows[0].rest) < 0.8 * rest
        mixed = bool(row.prefix) != bool(rows[0].prefix)
        if (running + count) and (over or wasteful or mixed):
            break
        count += 1
    return count
