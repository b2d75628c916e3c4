"""Latent multi-hop reasoning, slowly: float64 loops, and derivatives by automatic differentiation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(z - top) for z in logits]
    return [w / sum(weights) for w in weights]


def entrec(model: Any, residual: Sequence[float], token: int) -> float:
    """log softmax(U RMSNorm(h))[token] of a Llama-style model, one number at a time."""
    norm, unembedding = model.model.norm, model.lm_head.weight.tolist()
    gain = norm.weight.tolist()
    rms = math.sqrt(sum(x * x for x in residual) / len(residual) + norm.variance_epsilon)
    normed = [g * x / rms for g, x in zip(gain, residual, strict=True)]
    return math.log(
        softmax([sum(u * n for u, n in zip(row, normed, strict=True)) for row in unembedding])[token]
    )


def entrec_gradient(model: Any, residual: torch.Tensor, token: int) -> torch.Tensor:
    """Its gradient by the residual, through the model's own modules."""
    h = residual.detach().clone().requires_grad_()
    model.lm_head(model.model.norm(h)).log_softmax(-1)[token].backward()
    assert h.grad is not None
    return h.grad


def cross_entropy(p: Sequence[float], q: Sequence[float]) -> float:
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def cnst(p: Sequence[float], q: Sequence[float]) -> float:
    return -(cross_entropy(p, q) + cross_entropy(q, p)) / 2


def jsd(p: Sequence[float], q: Sequence[float]) -> float:
    """By entropies, not by divergences: H(m) - [H(p) + H(q)] / 2."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return cross_entropy(m, m) - (cross_entropy(p, p) + cross_entropy(q, q)) / 2


def inputs_at(modules: Sequence[Any], model: Any, ids: list[int], position: int) -> list[torch.Tensor]:
    """What enters each of a model's modules at one token."""
    found: dict[int, torch.Tensor] = {}

    def look(place: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            found[place] = (args[0] if args else kwargs["hidden_states"])[0, position]

        return hook

    handles = [m.register_forward_pre_hook(look(i), with_kwargs=True) for i, m in enumerate(modules)]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [found[i] for i in range(len(modules))]


def residuals(model: Any, ids: list[int], position: int) -> list[torch.Tensor]:
    """What enters each layer and the final norm."""
    return inputs_at([*model.model.layers, model.model.norm], model, ids, position)


def next_tokens(model: Any, ids: list[int]) -> list[float]:
    with torch.no_grad():
        return softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].tolist())


def causal_derivative(
    model: Any, ids: list[int], others: list[int], position: int, layer: int, token: int
) -> float:
    """d CnstScore / d alpha at 0 for h + alpha grad EntRec, one backward pass through the whole model."""
    h = residuals(model, ids, position)[layer]
    direction = entrec_gradient(model, h, token)
    alpha = torch.zeros((), dtype=h.dtype, requires_grad=True)

    def move(module: Any, args: Any, kwargs: Any) -> Any:
        states = (args[0] if args else kwargs["hidden_states"]).clone()
        states[0, position] = states[0, position] + alpha * direction
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    with torch.no_grad():
        q = model(input_ids=torch.tensor([others])).logits[0, -1].log_softmax(-1)
    handle = model.model.layers[layer].register_forward_pre_hook(move, with_kwargs=True)
    try:
        p = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
    finally:
        handle.remove()
    score = ((p.exp() * q).sum() + (q.exp() * p).sum()) / 2
    (found,) = torch.autograd.grad(score, alpha)
    return float(found)
