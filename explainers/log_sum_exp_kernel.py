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

FACTS = 16
"""Most facts in a tile: at 16 a float32 change is a quarter of a byte per exponential, and a GPU that makes
4e12 exponentials a second reads 1e12 bytes meanwhile, which an H100 or A100 can do beside."""
TOKENS = 128
"""Tokens in a tile: 512 bytes of every row, whole cache lines."""
ELEMENTS = 4096
"""Numbers in a tile: 32 registers of each of 128 threads."""
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _kernel(
    base, changes, factors, references, totals, facts, neurons, tokens, softcap,
    capped: tl.constexpr, block_f: tl.constexpr, block_n: tl.constexpr, block_v: tl.constexpr,
):  # fmt: skip
    """Walk over base [facts, tokens], changes [neurons, tokens], the others [facts, neurons]; rows side by side.

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
    most = tl.full((block_f, block_n), float("-inf"), tl.float32)
    total = tl.zeros((block_f, block_n), tl.float32)
    for start in range(0, tokens, block_v):
        v = start + tl.arange(0, block_v)
        is_base = (f < facts)[:, None] & (v < tokens)[None, :]
        before = tl.load(base + f_rows[:, None] * tokens + v[None, :], mask=is_base, other=0.0).to(tl.float32)
        is_change = (n < neurons)[:, None] & (v < tokens)[None, :]
        change = tl.load(changes + n_rows[:, None] * tokens + v[None, :], mask=is_change, other=0.0)
        change = change.to(tl.float32)
        if not capped:
            before *= LOG2_E
        z = before[:, None, :] + factor[:, :, None] * change[None, :, :]
        if capped:
            # tanh x = 1 - 2 / (exp(2 x) + 1), which is right at both infinities.
            z = (softcap * LOG2_E) * (1 - 2 / (tl.exp2(z * (2 * LOG2_E / softcap)) + 1))
        z = tl.where((v < tokens)[None, None, :], z, float("-inf"))
        new = tl.maximum(most, tl.max(z, 2))
        total = total * tl.exp2(most - new) + tl.sum(tl.exp2(z - new[:, :, None]), 2)
        most = new
    tl.store(references + pairs, most * LN_2, mask=is_pair)
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
    block_n = ELEMENTS // (TOKENS * block_f)
    _kernel[(triton.cdiv(facts, block_f), triton.cdiv(neurons, block_n))](
        base.contiguous(), changes.contiguous(), factors.contiguous(), references, totals,
        facts, neurons, tokens, 1.0 if softcap is None else softcap,
        capped=softcap is not None, block_f=block_f, block_n=block_n, block_v=TOKENS, num_warps=4,
    )  # fmt: skip
    return references, totals
