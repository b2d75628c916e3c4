"""The sums inside neuron attribution: exp(cap(base + factor * change)) over a block of vocabulary.

For every fact and neuron, with z = cap(base[fact] + factors[fact, neuron] * changes[neuron]) [v], what is
wanted is log sum_v exp z. A block of vocabulary gives a state, a reference near the largest z and the sum of
exp(z - reference); states of blocks are merged, and read out at the end.

The floor. Of n facts, k neurons and v tokens, n * k * v exponentials, and as many again for the cap's tanh.
In bytes, with 4 per number, `changes` are read once for each tile of t facts, `base` once for each tile of
neurons (it is small enough to come from a cache, so that it counts once), and two numbers are written for
each pair:

```
4 * (ceil(n / t) * k * v  +  n * v  +  3 * n * k)
```

The obvious way, torch.logsumexp(base[:, None] + factors[..., None] * changes, -1), moves several times
4 * n * k * v on top. Here it is never in memory: on a GPU one fused Triton kernel keeps it in registers
(explainers.log_sum_exp_kernel), elsewhere it is made in tiles that stay in a core's cache.
"""

from __future__ import annotations

from typing import TypeAlias

import torch

__all__ = ["State", "added_log_sum_exp", "log_sum_exp", "merged"]

State: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""A reference and the sum of exp(z - reference), each [facts, neurons]."""

TILE = 2**18
"""Numbers in a tile: 1 MiB of float32, measured best on two cores with 1 MiB of cache each."""
REACH = 40.0
"""Furthest that logits may move from those of `base` for one reference per fact, nats.

exp(40) times any vocabulary is far from float32's largest number (exp(88)), and what is lost below its
smallest (exp(-87)) is less than exp(-47) of any sum, since this is at least exp(-40)."""


def added_log_sum_exp(
    base: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor, softcap: float | None = None
) -> State:
    """Return the state of one block of vocabulary, [facts, neurons] each.

    On CUDA the reference is the largest z itself; elsewhere it may be off by up to REACH.

    Args:
        base: logits before the cap, nothing added, finite, [facts, v].
        changes: what each neuron adds to them per unit of its factor, [neurons, v].
        factors: [facts, neurons].
        softcap: bound of the logits, cap(z) = softcap * tanh(z / softcap); null where there is none.
    """
    if changes.is_cuda and changes.dtype != torch.float64:
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


def _capped(z: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Apply the cap in place."""
    return z if softcap is None else z.div_(softcap).tanh_().mul_(softcap)


def _tiled(base: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor, softcap: float | None) -> State:
    """The same in plain torch: one reference per fact saves two of five passes over every tile.

    It does wherever no logit can move far; the cap only makes its way shorter. The rest, rare, is redone.
    """
    shifted = base.amax(1, keepdim=True)
    reference = _capped(shifted.clone(), softcap).expand_as(factors).clone()
    total = torch.empty_like(factors)
    far = torch.empty_like(factors, dtype=torch.bool)
    # Without a cap the reference goes into `base`; with one, it cannot be taken off before the cap.
    start = base - shifted if softcap is None else base
    size = max(1, TILE // changes.shape[1])
    tile = changes.new_empty(min(size, len(changes)), changes.shape[1])
    for first in range(0, len(changes), size):
        some = slice(first, first + size)
        block = changes[some]
        z = tile[: len(block)]
        low, high = block.aminmax(dim=1)
        far[:, some] = ~(factors[:, some].abs() * torch.maximum(high, -low) <= REACH)
        for fact in range(len(base)):
            torch.addcmul(start[fact], factors[fact, some, None], block, out=z)
            if softcap is not None:
                _capped(z, softcap).sub_(reference[fact, 0])
            torch.sum(z.exp_(), 1, out=total[fact, some])
    for fact in far.any(1).nonzero()[:, 0].tolist():
        _redo(base[fact], changes, factors[fact], softcap, far[fact], reference[fact], total[fact])
    return reference, total


def _redo(
    base: torch.Tensor,
    changes: torch.Tensor,
    factors: torch.Tensor,
    softcap: float | None,
    which: torch.Tensor,
    reference: torch.Tensor,
    total: torch.Tensor,
) -> None:
    """Overwrite one fact's `reference` and `total`, [neurons], where `which` says so, by largest z."""
    for some in which.nonzero()[:, 0].split(max(1, TILE // changes.shape[1])):
        z = _capped(torch.addcmul(base, factors[some, None], changes[some]), softcap)
        reference[some] = most = z.amax(1)
        total[some] = z.sub_(most[:, None]).exp_().sum(1)
