"""The sums inside neuron attribution: exp(cap(base + factor * change)) over a block of vocabulary.

For every fact and neuron, with z = cap(base[fact] + factors[fact, neuron] * changes[neuron]) [v], what is
wanted is log sum_v exp z. A block of vocabulary gives a state, a reference near the largest z and the sum of
exp(z - reference); states of blocks are merged, and read out at the end.

The floor. Of n facts, k neurons and v tokens, n * k * v exponentials, and as many again for the cap's tanh.
In bytes, with 4 per number, `changes` are read once for each tile of t facts (8 on a GPU, all on a CPU),
`base` once (it is small: later tiles find it in a cache), `factors` once, and two numbers are written for
each pair:

```
4 * (ceil(n / t) * k * v  +  n * v  +  3 * n * k)
```

The obvious way, torch.logsumexp(base[:, None] + factors[..., None] * changes, -1), moves several times
4 * n * k * v on top. Here it is never in memory: on a GPU one fused Triton kernel keeps it in registers
(explainers.log_sum_exp_kernel), elsewhere it is made in tiles that stay in a core's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeAlias

import torch

__all__ = ["State", "added_log_sum_exp", "log_sum_exp", "merged"]

State: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""A reference and the sum of exp(z - reference), each [facts, neurons]."""

LOG2_E = 1 / math.log(2)
"""Exponentials are made by exp2 of bits, and tanh by sigmoid: on a CPU these take torch a third and a sixth
of the time (benchmarks/log_sum_exp.py)."""
TILE = 2**18
"""Numbers in a thread's part of a tile: 1 MiB of float32, measured best with as much cache in each core."""
REACH = 40.0
"""Furthest that logits may move from those of `base` for one reference per fact, nats.

exp(40) times any vocabulary is far from float32's largest number (exp(88)), and what is lost below its
smallest (exp(-87)) is less than exp(-47) of any sum, since this is at least exp(-40)."""


def added_log_sum_exp(
    base: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor, softcap: float | None = None
) -> State:
    """Return the state of one block of vocabulary, [facts, neurons] each.

    On a CUDA device the fused kernel does it, in float32, and the reference is the largest z itself;
    elsewhere it may be off by up to REACH. Float64 keeps to plain torch everywhere.

    Args:
        base: logits before the cap, nothing added, finite, [facts, v].
        changes: what each neuron adds to them per unit of its factor, [neurons, v].
        factors: [facts, neurons].
        softcap: bound of the logits, cap(z) = softcap * tanh(z / softcap); null where there is none.
    """
    if changes.is_cuda and changes.dtype != torch.float64 and find_spec("triton") is not None:
        from explainers.log_sum_exp_kernel import fused

        return fused(base, changes, factors, softcap)
    return _tiled(base, changes, factors, softcap)


def merged(one: State, other: State) -> State:
    """Return the state of two blocks of vocabulary together."""
    reference = torch.maximum(one[0], other[0])
    total = one[1] * (one[0] - reference).exp() + other[1] * (other[0] - reference).exp()
    return reference, total


def log_sum_exp(state: State) -> torch.Tensor:
    """Return log sum exp z, [facts, neurons], nats."""
    return state[0] + state[1].log()


def _tiled(base: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor, softcap: float | None) -> State:
    """The same in plain torch: one reference per fact saves two of five passes over every tile.

    It does wherever no logit can move far; the cap only makes its way shorter. The rest, rare, is redone.
    """
    exponents = _Exponents(softcap)
    highest = base.amax(1, keepdim=True)
    reference = exponents.capped(highest).expand_as(factors).clone()
    total = torch.empty_like(factors)
    far = torch.empty_like(factors, dtype=torch.bool)
    starts, steps = exponents.scaled(base - highest if softcap is None else base), exponents.scaled(factors)
    size = _rows(changes)
    tile = changes.new_empty(min(size, len(changes)), changes.shape[1])
    for first in range(0, len(changes), size):
        some = slice(first, first + size)
        block = changes[some]
        z = tile[: len(block)]
        largest = torch.maximum(block.amax(1), -block.amin(1))  # aminmax takes 17 times as long
        far[:, some] = ~(factors[:, some].abs() * largest <= REACH)
        for fact in range(len(base)):
            torch.addcmul(starts[fact], steps[fact, some, None], block, out=z)
            if softcap is not None:
                exponents.cap_(z, reference[fact, :1])
            torch.sum(z.exp2_(), 1, out=total[fact, some])
    for fact in far.any(1).nonzero()[:, 0].tolist():
        for some in far[fact].nonzero()[:, 0].split(size):
            z = exponents.capped(torch.addcmul(base[fact], factors[fact, some, None], changes[some]))
            reference[fact, some] = most = z.amax(1)
            total[fact, some] = z.sub_(most[:, None]).mul_(LOG2_E).exp2_().sum(1)
    return reference, total


def _rows(changes: torch.Tensor) -> int:
    """How many neurons are in a tile: every thread has its part of it, the same in each pass."""
    return max(1, TILE * int(torch.get_num_threads()) // int(changes.shape[1]))


@dataclass(frozen=True)
class _Exponents:
    """Makes exponents of 2 from scaled logits, in place and in as few passes as there can be.

    Attributes:
        softcap: bound of the logits; null where there is none.
    """

    softcap: float | None

    def scaled(self, logits: torch.Tensor) -> torch.Tensor:
        """Multiply so that what `cap_` or exp2 takes comes out: in bits, or halves of the cap."""
        return logits * (LOG2_E if self.softcap is None else 2 / self.softcap)

    def cap_(self, z: torch.Tensor, reference: torch.Tensor) -> None:
        """Put (cap - reference) log2 e in place of scaled logits: tanh x = 2 sigmoid(2 x) - 1."""
        assert self.softcap is not None
        torch.add(-LOG2_E * (self.softcap + reference), z.sigmoid_(), alpha=2 * LOG2_E * self.softcap, out=z)

    def capped(self, logits: torch.Tensor) -> torch.Tensor:
        """Return capped logits, nats."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
