"""The logit lens, slowly: float64 numpy, one layer and one token at a time, from the formulas alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def distributions(model: Any, ids: list[int], position: int) -> list[list[float]]:
    """Next-token probabilities of a Llama-style model at every boundary, from transformers' own hidden states."""
    import torch

    seen: list[Any] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, position]))
        for layer in model.model.layers
    ]
    hooks.append(
        model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, position]))
    )
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    gain = model.model.norm.weight.detach().double().numpy()
    unembedding = model.lm_head.weight.detach().double().numpy()
    eps = model.model.norm.variance_epsilon
    found = []
    for state in seen:
        h = state.double().numpy()
        n = gain * h / math.sqrt(sum(x * x for x in h) / len(h) + eps)
        z = [float(np.dot(row, n)) for row in unembedding]
        total = sum(math.exp(x - max(z)) for x in z)
        found.append([math.exp(x - max(z)) / total for x in z])
    return found


def entropy(p: list[float]) -> float:
    """Entropy, nats."""
    return -sum(x * math.log(x) for x in p if x > 0)


def divergence(p: list[float], q: list[float]) -> float:
    """KL(p || q), nats."""
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def rank(p: list[float], token: int) -> int:
    """Place of a token when all are sorted, the most likely first: 1 and up."""
    return sorted(range(len(p)), key=lambda t: -p[t]).index(token) + 1
