"""The measures of latent multi-hop reasoning (Yang et al. 2024, arXiv 2402.16837), as sums over tensors."""

from __future__ import annotations

import math

import torch

from quantxai.readout import Readout

__all__ = ["consistency", "entity_recall", "jensen_shannon", "nudges"]

LOGIT_BYTES = 2**27
"""Most bytes of logits that are held at a time."""


def entity_recall(readout: Readout, residuals: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return EntRec, log softmax(U LN(h))[t], nats: each residual is divided by its own norm's scale.

    Args:
        readout: final norm LN and unembedding U.
        residuals: h, [..., hidden].
        tokens: t, the first token of the bridge's name, [...].
    """
    rows, wanted = residuals.reshape(-1, readout.hidden), tokens.reshape(-1, 1)
    size = max(1, LOGIT_BYTES // (readout.vocabulary * readout.dtype.itemsize))
    pairs = zip(rows.split(size), wanted.split(size), strict=True)
    found = [readout.log_probs(some).gather(-1, targets) for some, targets in pairs]
    return torch.cat(found).reshape(tokens.shape)


def consistency(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return CnstScore = -1/2 [CE(p, q) + CE(q, p)], nats, CE(p, q) = -sum p log q.

    Args:
        p: log-probabilities of one next-token distribution, [..., vocabulary].
        q: those of the other.
    """
    return (_expected(p, q) + _expected(q, p)) / 2


def jensen_shannon(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence, nats, from 0 to ln 2; arguments as for `consistency`.

    With m = (p + q) / 2 it is 1/2 [KL(p, m) + KL(q, m)], KL(p, m) = sum p log(p / m). Unlike CnstScore it is
    0 for any two equal distributions, however flat.
    """
    mean = torch.logaddexp(p, q) - math.log(2)
    return (_expected(p, p - mean) + _expected(q, q - mean)) / 2


def nudges(
    readout: Readout, residuals: torch.Tensor, tokens: torch.Tensor, step: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return alpha g and alpha: by how much to move residuals to raise EntRec, for finite differences.

    g is EntRec's analytic gradient by h, the norm's own change included, and alpha = step |h| / |g|.

    Args:
        readout: as for `entity_recall`.
        residuals: h, [..., hidden].
        tokens: [...].
        step: which share of its length h is to be moved by.

    Returns:
        alpha g, [..., hidden], and alpha, [...].
    """
    gradient = readout.gradient(residuals, tokens)
    length = gradient.norm(dim=-1).clamp(min=torch.finfo(gradient.dtype).tiny)
    alpha = step * residuals.to(gradient.dtype).norm(dim=-1) / length
    return alpha[..., None] * gradient, alpha


def _expected(p: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The mean of values under p; where p is 0 nothing is added, even if the value is infinite."""
    weights = p.exp()
    return torch.where(weights > 0, weights * values, 0.0).sum(-1)
