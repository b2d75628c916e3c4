"""log p(w | r + f v) - log p(w | r): what directions added to a residual do to a token's log-probability.

With s, what the final norm divides by, held fixed, logits are cap(A r / s + c + f A v / s), and A v depends on
no fact. So the product of the unembedding with a block of directions is formed once for all facts, block by
block of the vocabulary, and what remains per fact and direction is a log-sum-exp. Two ways to have it:

- **directly**: exponentials of all changed logits (explainers.log_sum_exp).
- **by moments**, where logits have no cap: with p the unchanged probabilities and x = f A v / s the changes,
  log-sum-exp grows by log E_p[exp x], and

  ```
  E_p[exp x] = 1 + E[x] + E[x^2] / 2 + E[x^3] / 6 + E[x^4] / 24 + R,  |R| <= (exp(max |x|) - 1) E[x^4] / 24
  ```

  (Taylor with Lagrange's remainder: exp(xi) x^4 / 24, |xi| <= |x|, stands for the last term.) E_p[(A v)^j] for
  all facts is one matrix product of the probabilities with the j-th powers. Where R is too large for what is
  asked, directions are left to the first way; in a language model these are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch

from explainers.log_sum_exp import LOG2_E, added_log_sum_exp, log_sum_exp, merged
from quantxai.readout import Readout

__all__ = ["AddedDirections", "Facts"]

CPU_ROWS = 2048
"""Tokens in a block on a CPU. Measured on two cores with 1 MiB of cache each, as are the next two."""
CPU_ELEMENTS = 2**20
"""Most elements [directions, tokens] of a matrix product on a CPU."""
CPU_PAIRS = 2**17
"""Most elements [pairs, tokens] of exponentials on a CPU, so that every step finds them in its cache."""
GPU_ROWS = 2**15
"""Tokens in a block on other devices."""


@dataclass(frozen=True)
class Facts:
    """Residuals of one layer, one for each fact, and how they are read out.

    Attributes:
        points: residuals over the final norm's scale, r / s, [facts, hidden].
        scales: s, [facts].
        tokens: w, [facts].
        rows: the tokens' rows of A, [facts, hidden].
        logits: the tokens' logits at r before the cap, [facts].
        log_totals: log-sum-exp of all logits at r, [facts], nats.
        gradients: of log p(w | r) by r, [facts, hidden], nats per unit; s held fixed.
    """

    points: torch.Tensor
    scales: torch.Tensor
    tokens: torch.Tensor
    rows: torch.Tensor
    logits: torch.Tensor
    log_totals: torch.Tensor
    gradients: torch.Tensor

    def some(self, which: slice) -> Facts:
        """Return some of the facts."""
        return Facts(*(getattr(self, field.name)[which] for field in fields(self)))


class AddedDirections:
    """Reads changed residuals out, in blocks that fit a budget.

    Args:
        readout: the model's last step.
        memory: most bytes of working tensors at a time, beside arguments and results.
    """

    def __init__(self, readout: Readout, memory: int) -> None:
        self.readout = readout
        self.item = int(readout.gain.element_size())
        self.cpu = readout.gain.device.type == "cpu"
        self.tokens = max(1, min(self.readout.vocabulary, *self._most_rows(memory)))
        # Half of the budget is for blocks [directions, tokens], of which at most four exist at a time.
        self.elements = max(self.tokens, memory // (8 * self.item))
        if self.cpu:
            self.elements = min(self.elements, max(self.tokens, CPU_ELEMENTS))
        whole = readout.vocabulary * readout.hidden * self.item
        self._kept = list(self._read()) if 2 * whole <= memory else None

    def _most_rows(self, memory: int) -> tuple[int, int]:
        # A block of A is made from at most two copies of itself.
        return CPU_ROWS if self.cpu else GPU_ROWS, memory // (16 * self.readout.hidden * self.item)

    def _read(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start, stop in self.readout.blocks(self.tokens):
            yield self.readout.rows(start, stop), self.readout.constant(start, stop)

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield blocks of A [tokens, hidden] and c [tokens], of which A is kept where the budget allows it."""
        yield from self._read() if self._kept is None else self._kept

    def log_probs(self, residuals: torch.Tensor, scales: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return log p(w | r) [n], nats, of residuals [n, hidden], the norm's scales [n] and tokens [n]."""
        found = []
        for part, s, w in self._parts(residuals, scales, tokens):
            points = part / s[:, None]
            _, logits = self._token_logits(points, w)
            found.append(self.readout.cap(logits) - self._log_totals(points)[0])
        return torch.cat(found)

    def facts(self, residuals: torch.Tensor, scales: torch.Tensor, tokens: torch.Tensor) -> Facts:
        """Return residuals [n, hidden] with what is to be known of them unchanged; arguments as above."""
        return _joined([self._facts(*part) for part in self._parts(residuals, scales, tokens)])

    def _facts(self, residuals: torch.Tensor, scales: torch.Tensor, tokens: torch.Tensor) -> Facts:
        points = residuals / scales[:, None]
        rows, logits = self._token_logits(points, tokens)
        log_totals, expected = self._log_totals(points, gradient=True)
        slope = self._slope(self.readout.cap(logits))
        gradients = (slope[:, None] * rows - expected) / scales[:, None]
        return Facts(points, scales, tokens, rows, logits, log_totals, gradients)

    def _parts(self, *tensors: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Split tensors with as many rows so that logits of a part fit."""
        size = max(1, self.elements // max(self.tokens, 4 * self.readout.hidden))
        yield from (list(part) for part in zip(*(t.split(size) for t in tensors), strict=True))

    def _token_logits(self, points: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows of A [n, hidden] and logits before the cap [n], each of one token."""
        known, which = tokens.unique(return_inverse=True)
        ids = known.tolist()
        rows = torch.cat([self.readout.rows(w, w + 1) for w in ids])[which]
        constants = torch.cat([self.readout.constant(w, w + 1) for w in ids])[which]
        return rows, (points * rows).sum(-1) + constants

    def _slope(self, capped: torch.Tensor) -> torch.Tensor:
        """The cap's derivative where it gives these logits."""
        softcap = self.readout.softcap
        return torch.ones_like(capped) if softcap is None else 1 - (capped / softcap).square()

    def _log_totals(self, points: torch.Tensor, gradient: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-sum-exp of the logits [n], and E_p[slope * row of A] [n, hidden] where asked for.

        One pass over the vocabulary: what was summed is scaled down when a larger logit comes.
        """
        most = points.new_full((len(points),), -torch.inf)
        total, expected = torch.zeros_like(most), torch.zeros_like(points[:, : points.shape[1] * gradient])
        for rows, constant in self.blocks():
            logits = self.readout.cap(torch.addmm(constant, points, rows.T))
            new = torch.maximum(most, logits.amax(1))
            shrunk = (most - new).exp()
            slopes = self._slope(logits) if gradient and self.readout.softcap else None
            weights = logits.sub_(new[:, None]).mul_(LOG2_E).exp2_()
            total = total * shrunk + weights.sum(1)
            if gradient:
                weights = weights if slopes is None else weights * slopes
                expected = torch.addmm(expected * shrunk[:, None], weights, rows)
            most = new
        return most + total.log(), expected / total[:, None]

    # -- directions ------------------------------------------------------------------------------

    def first_order(self, facts: Facts, directions: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return the first-order changes f (gradient . v), [facts, directions], nats.

        Where logits have no cap, log p(w | r) is concave in r (a linear function minus a log-sum-exp), so
        that these are upper bounds of the changes themselves.

        Args:
            facts: what is changed.
            directions: v, [hidden, directions], shared by all facts.
            factors: f, [facts, directions].
        """
        return (facts.gradients @ directions) * factors

    def directly(
        self, facts: Facts, directions: torch.Tensor, factors: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Return the changes, [facts, directions], nats, where chosen, and zeros elsewhere.

        Args:
            facts: what is changed.
            directions: v, [hidden, directions], shared by all facts.
            factors: f, [facts, directions].
            chosen: which of them are asked for, [facts, directions]; true or false.
        """
        scaled = factors / facts.scales[:, None]
        after = torch.zeros_like(factors)
        for some in chosen.any(0).nonzero()[:, 0].split(self._width()):
            pairs = chosen[:, some].nonzero(as_tuple=True)
            # A fused kernel does all facts in less than a gather takes.
            if not self.cpu or len(pairs[0]) == len(facts.points) * len(some):
                after[:, some] = self._growth(facts, directions[:, some], scaled[:, some])
            else:
                place = (pairs[0], some[pairs[1]])
                after[place] = self._growth(facts, directions[:, some], scaled[place], pairs)
        moved = facts.logits[:, None] + scaled * (facts.rows @ directions)
        before = self.readout.cap(facts.logits)[:, None]
        return torch.where(chosen, self.readout.cap(moved) - before - after, 0)

    def by_moments(
        self, facts: Facts, directions: torch.Tensor, factors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all changes, and how far each can be off, both [facts, directions], nats.

        Rounding comes on top. For logits without a cap alone; arguments as for `directly`.
        """
        powers, largest = self._moments(facts, directions)
        f = factors / facts.scales[:, None]
        # The gradient is (row of w - E_p[row]) / s.
        expected = (facts.rows - facts.gradients * facts.scales[:, None]) @ directions
        last = f**4 * powers[2] / 24
        growth = f * expected + f**2 * powers[0] / 2 + f**3 * powers[1] / 6 + last
        rest = torch.expm1(f.abs() * largest) * last
        # log is off by at most rest over the smaller of both arguments; nan and negative ones tell nothing.
        least = 1 + growth - rest
        errors = torch.where(least > 0, rest / least, torch.inf)
        return f * (facts.rows @ directions) - growth.log1p(), errors

    def _moments(self, facts: Facts, directions: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return E_p[(A v)^j], [facts, directions], for j = 2, 3, 4, and max |A v|, [directions]."""
        number = directions.shape[1]
        found = [facts.points.new_zeros(len(facts.points), number) for _ in range(3)]
        largest = facts.points.new_zeros(number)
        for rows, constant in self.blocks():
            logits = torch.addmm(constant, facts.points, rows.T)
            p = logits.sub_(facts.log_totals[:, None]).mul_(LOG2_E).exp2_()
            for start in range(0, number, self._width()):
                some = slice(start, start + self._width())
                change = directions[:, some].T @ rows.T
                largest[some] = torch.maximum(largest[some], torch.maximum(change.amax(1), -change.amin(1)))
                square = change * change
                found[0][:, some] += p @ square.T
                found[1][:, some] += p @ change.mul_(square).T
                found[2][:, some] += p @ square.mul_(square).T
        return found, largest

    def _width(self) -> int:
        """How many directions are worked on at a time."""
        return max(1, self.elements // max(self.tokens, self.readout.hidden))

    def _growth(
        self,
        facts: Facts,
        directions: torch.Tensor,
        factors: torch.Tensor,
        pairs: tuple[torch.Tensor, ...] | None = None,
    ) -> torch.Tensor:
        """Return how much log-sum-exp grows, nats.

        Args:
            facts: what is changed.
            directions: [hidden, directions].
            factors: f / s, [facts, directions], or [pairs] where given.
            pairs: facts and directions that are asked for; all where left out.
        """
        softcap, state = self.readout.softcap, None
        before = facts.log_totals[:, None]
        for rows, constant in self.blocks():
            base = torch.addmm(constant, facts.points, rows.T)
            if softcap is None:
                # Log-probabilities: their sum is 1, so that rounding is that of the change alone.
                base -= before
            changes = directions.T @ rows.T
            part = (
                added_log_sum_exp(base, changes, factors, softcap)
                if pairs is None
                else self._paired(base, changes, factors, pairs)
            )
            state = part if state is None else merged(state, part)
        assert state is not None
        after = log_sum_exp(state)
        if softcap is None:
            return after
        return after - (before if pairs is None else facts.log_totals[pairs[0]])

    def _paired(
        self,
        base: torch.Tensor,
        changes: torch.Tensor,
        factors: torch.Tensor,
        pairs: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """added_log_sum_exp for some pairs of facts and directions: maxima and totals [pairs]."""
        softcap = self.readout.softcap
        unit = LOG2_E if softcap is None else 1.0
        base, factors, found = base * unit, factors * unit, []
        size = max(1, min(CPU_PAIRS, self.elements) // self.tokens)
        for f, fact, direction in zip(*(t.split(size) for t in (factors, *pairs)), strict=True):
            # With changes[direction] all of this takes nearly twice as long.
            bits = changes.index_select(0, direction).mul_(f[:, None]).add_(base.index_select(0, fact))
            bits = bits if softcap is None else self.readout.cap(bits).mul_(LOG2_E)
            most = bits.amax(1)
            found.append((most / LOG2_E, bits.sub_(most[:, None]).exp2_().sum(1)))
        most, total = (torch.cat(parts) for parts in zip(*found, strict=True))
        return most, total


def _joined(parts: list[Facts]) -> Facts:
    return Facts(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Facts)))
