"""The sums of explainers.log_sum_exp as one fused Triton kernel.

A program has a tile of facts and neurons, walks over the vocabulary, and keeps the largest logit and the sum
of exponentials so far, scaling the sum down when a larger logit comes (Milakov & Gimelshein 2018, arXiv
1805.02867). Every element of `changes` that it reads serves all facts of the tile; nothing of the size
[facts, neurons, v] is in memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["fused"]

FACTS = 8
"""Most facts in a tile. A float32 change is then half a byte per exponential: an H100, whose 132
multiprocessors make 16 exponentials in a clock, needs 1.9e12 bytes a second, and can read 3.3e12."""
NEURONS = 4
"""Neurons in a tile: one for each of as many warps."""
LANES = 32
"""Lanes of a warp. Each keeps a largest logit and a sum of its own until the end: a reduction over lanes in
every step would be more instructions than the exponentials."""
STEPS = 8
"""Tokens that each lane takes at once, for which a sum is scaled down once: 9 exponentials where 8 are
wanted. Compiled for compute capability 9.0 a thread has 128 registers, none of them spilled."""
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    base, changes, factors, references, totals, facts, neurons, tokens, softcap,
    capped: tl.constexpr, block_f: tl.constexpr, block_n: tl.constexpr,
    steps: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """Walk over base [facts, tokens] and changes [neurons, tokens]; the others are [facts, neurons].

    Logits are kept in bits (times log2 e), since the hardware's exponential is that of 2.
    """
    # Tiles of facts are neighbours, so that a second reading of `changes` comes from the L2 cache.
    f = tl.program_id(0) * block_f + tl.arange(0, block_f)
    n = tl.program_id(1) * block_n + tl.arange(0, block_n)
    f_rows, n_rows = f.to(tl.int64), n.to(tl.int64)
    is_pair = (f < facts)[:, None] & (n < neurons)[None, :]
    pairs = f_rows[:, None] * neurons + n_rows[None, :]
    factor = tl.load(factors + pairs, mask=is_pair, other=0.0).to(tl.float32)
    if not capped:
        factor *= LOG2_E
    most = tl.full((block_f, block_n, lanes), float("-inf"), tl.float32)
    total = tl.zeros((block_f, block_n, lanes), tl.float32)
    base_rows = base + f_rows[None, :, None] * tokens
    change_rows = changes + n_rows[None, :, None] * tokens
    for start in range(0, tokens, steps * lanes):
        v = start + (tl.arange(0, steps) * lanes)[:, None, None] + tl.arange(0, lanes)[None, None, :]
        # Facts past the end read zeros; tokens past it add exp(-inf), nothing.
        beyond = tl.where(v < tokens, 0.0, float("-inf"))
        before = tl.load(base_rows + v, mask=(f < facts)[None, :, None] & (v < tokens), other=0.0)
        change = tl.load(change_rows + v, mask=(n < neurons)[None, :, None] & (v < tokens), other=0.0)
        before, change = before.to(tl.float32), change.to(tl.float32)
        if not capped:
            before = before * LOG2_E + beyond
        z = before[:, :, None, :] + factor[None, :, :, None] * change[:, None, :, :]
        if capped:
            # tanh x = 1 - 2 / (exp(2 x) + 1), which is right at both infinities.
            z = (softcap * LOG2_E) * (1 - 2 / (tl.exp2(z * (2 * LOG2_E / softcap)) + 1))
            z += beyond[:, :, None, :]
        # A lane that has had no token yet stands at 0, as -inf - -inf would be no number.
        new = tl.maximum(most, tl.max(z, 0))
        known = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(most - known) + tl.sum(tl.exp2(z - known[None]), 0)
        most = new
    reference = tl.max(most, 2)
    total = tl.sum(total * tl.exp2(most - reference[:, :, None]), 2)
    tl.store(references + pairs, reference * LN_2, mask=is_pair)
    tl.store(totals + pairs, total, mask=is_pair)


def fused(
    base: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maximum and sum of one block of vocabulary, float32 [facts, neurons].

    Args:
        base: [facts, v].
        changes: [neurons, v].
        factors: [facts, neurons].
        softcap: bound of the logits; null where there is none.
    """
    (facts, tokens), neurons = base.shape, len(changes)
    references = torch.empty((facts, neurons), dtype=torch.float32, device=changes.device)
    totals = torch.empty_like(references)
    block_f = min(FACTS, triton.next_power_of_2(facts))
    _kernel[(triton.cdiv(facts, block_f), triton.cdiv(neurons, NEURONS))](
        base.contiguous(), changes.contiguous(), factors.contiguous(), references, totals,
        facts, neurons, tokens, 1.0 if softcap is None else softcap,
        capped=softcap is not None, block_f=block_f, block_n=NEURONS, steps=STEPS, lanes=LANES,
        num_warps=NEURONS,
    )  # fmt: skip
    return references, totals
