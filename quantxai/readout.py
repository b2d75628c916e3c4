"""From a residual stream to the next token: final norm, unembedding, soft cap.

The logit lens (nostalgebraist 2020) reads every layer's residual this way. With h a residual, s what
the final norm divides by, A the unembedding with the norm's gain (and, for LayerNorm, its centring)
folded in, and c the constant of biases:

```
logits(h) = cap(A h / s + c)        cap(z) = softcap * tanh(z / softcap), or z where there is none
```

All of it is computed in float32 (float64 for a float64 model) from blocks of the unembedding, so that no
more than a block is ever held beside the model's own copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from quantxai.norms import Norm

__all__ = ["Readout"]

BLOCK_BYTES = 2**27
"""Most bytes of unembedding rows that are held in working precision at a time."""


@dataclass(frozen=True, kw_only=True)
class Readout(Norm):
    """The last step of a language model: the final norm (the inherited attributes) and the unembedding.

    Attributes:
        unembedding: [vocabulary, hidden], in the model's own type.
        bias: what is added to the logits, [vocabulary]; null where there is none.
        multiplier: what the logits are multiplied with before the cap.
        softcap: bound of the logits (Gemma 2); null where there is none.
    """

    unembedding: torch.Tensor
    bias: torch.Tensor | None = None
    multiplier: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return int(self.unembedding.shape[0])

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.unembedding.shape[1])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows of A: [stop - start, hidden]."""
        folded = self.unembedding[start:stop].to(self.dtype) * self.gain
        if self.centred:
            folded = folded - folded.mean(-1, keepdim=True)
        return folded * self.multiplier if self.multiplier != 1 else folded

    def constant(self, start: int, stop: int) -> torch.Tensor:
        """Return elements of c: [stop - start]."""
        found = torch.zeros(stop - start, dtype=self.dtype, device=self.gain.device)
        if self.shift is not None:
            found += self.unembedding[start:stop].to(self.dtype) @ self.shift
        if self.bias is not None:
            found += self.bias[start:stop].to(self.dtype)
        return found * self.multiplier

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of consecutive blocks of tokens, `size` or as many as BLOCK_BYTES hold."""
        size = size or max(1, BLOCK_BYTES // (self.hidden * self.gain.element_size()))
        for start in range(0, self.vocabulary, size):
            yield start, min(start + size, self.vocabulary)

    def cap(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply the soft cap, where there is one."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def logits(self, residuals: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [..., vocabulary] of residuals [..., hidden].

        Args:
            residuals: any residuals of this model.
            scale: what to divide by, [...]: held fixed where given, else the residuals' own.
        """
        h = residuals.to(self.dtype)
        h = h / (self.scale(h) if scale is None else scale)[..., None]
        return torch.cat(
            [self.cap(h @ self.rows(a, b).T + self.constant(a, b)) for a, b in self.blocks()], -1
        )

    def log_probs(self, residuals: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return next-token log-probabilities [..., vocabulary], nats; arguments as for `logits`."""
        return self.logits(residuals, scale).log_softmax(-1)

    def gradient(
        self, residuals: torch.Tensor, tokens: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the gradient of log p(token | h) by h: [..., hidden], nats per unit of h.

        With p the softmax, t the token and D the cap's derivative, the gradient by A h / s is
        D (e_t - p); through the norm, with n = h / s (centred for LayerNorm), it is
        (u - n (n . u) / hidden) / s with u = A' D (e_t - p).

        Args:
            residuals: h, [..., hidden].
            tokens: t, token ids [...].
            scale: s, [...]: held fixed where given, so that the norm's own change is left out.
        """
        h = residuals.to(self.dtype)
        s = (self.scale(h) if scale is None else scale)[..., None]
        logits = self.logits(h, s[..., 0])
        by_logit = -logits.softmax(-1)
        by_logit.scatter_add_(-1, tokens[..., None], torch.ones_like(by_logit[..., :1]))
        if self.softcap is not None:
            by_logit = by_logit * (1 - (logits / self.softcap).square())
        u = sum(by_logit[..., a:b] @ self.rows(a, b) for a, b in self.blocks())
        if scale is None:
            n = (h - h.mean(-1, keepdim=True) if self.centred else h) / s
            u = u - n * (n * u).sum(-1, keepdim=True) / self.hidden
        return u / s
