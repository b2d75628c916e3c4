"""Normalizations, read off the modules that compute them.

LayerNorm (Ba et al. 2016, arXiv 1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) as one:

```
norm(h) = gain * (h - mean(h), where centred) / scale(h) + shift        scale(h) = sqrt(mean square + eps)
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

__all__ = ["Norm", "read_norm", "working_dtype"]

EPS_NAMES = ("eps", "variance_epsilon", "norm_eps", "epsilon")
"""Where families keep what is added to the mean square."""
EPS = (1e-5, 1e-6, 1e-8, 0.0)
"""What it may be where a norm does not say (OLMo's)."""
SMALL = 2.0**-9
"""Size of a vector whose norm depends on which of EPS it is."""
FLOOR = 0.1
"""Share of a vector's median element that an error is at least compared with."""


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that a model's internals are computed in: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalization: gain * (h - mean, where centred) / scale(h) + shift.

    Attributes:
        gain: what it multiplies with, [hidden], in working precision.
        shift: what it adds, [hidden]; null where it adds nothing.
        centred: whether it subtracts the mean first (LayerNorm), or not (RMSNorm).
        eps: what it adds to the mean square.
    """

    gain: torch.Tensor
    shift: torch.Tensor | None = None
    centred: bool = False
    eps: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """The working precision."""
        return self.gain.dtype

    def scale(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return what the norm divides by: [...] for vectors [..., hidden]."""
        h = vectors.to(self.dtype)
        if self.centred:
            h = h - h.mean(-1, keepdim=True)
        return (h.square().mean(-1) + self.eps).sqrt()

    def normed(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return what the norm makes of vectors [..., hidden]."""
        h = vectors.to(self.dtype)
        scale = self.scale(h)[..., None]
        if self.centred:
            h = h - h.mean(-1, keepdim=True)
        normed = h / scale * self.gain
        return normed if self.shift is None else normed + self.shift

    def folded(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return what the norm makes of the columns of a matrix [hidden, n], but for its scale and shift."""
        folded = matrix.to(self.dtype)
        if self.centred:
            folded = folded - folded.mean(0, keepdim=True)
        return folded * self.gain[:, None]


def read_norm(module: Any, width: int, model: Any) -> Norm | None:
    """Return the norm that a module computes, or null where it computes something else.

    Families differ in what they store: the gain, the gain less one (Gemma) or none (OLMo). Of the norms
    that the stored numbers may mean, it is the one nearest to what the module makes of two vectors, if that
    is near enough. Every element counts by its own size: beside one gain of a thousand, which is less than
    a thousandth off where one is added, all others would look alike.

    Args:
        module: what may be a norm.
        width: of its input.
        model: it tells in which type and where a norm without numbers of its own is run.
    """
    stored = getattr(module, "weight", None)
    like = stored if isinstance(stored, torch.Tensor) else next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    # The mean is not 0, so that centring shows; the second vector tells the eps.
    vector = torch.randn(width, generator=generator) + 1
    vectors = torch.stack([vector, vector * SMALL]).to(like)
    with torch.no_grad():
        made = module(vectors[None])[0].to(working_dtype(model.dtype))
    if made.shape != vectors.shape:
        return None
    size = made.abs()
    size = size + FLOOR * size.median(-1, keepdim=True).values
    # The mean chooses, since the largest error may be a rounding's; the largest one decides.
    errors = [(n, (n.normed(vectors) - made).abs() / size) for n in _candidates(module, made[0])]
    norm, error = min(errors, key=lambda found: float(found[1].mean()))
    tolerance = 1e-4 if like.dtype in (torch.float32, torch.float64) else 2e-2
    return norm if bool((error <= tolerance).all()) else None


def _candidates(module: Any, like: torch.Tensor) -> Iterator[Norm]:
    """The norms that the numbers a module stores may mean, in the type and place of a vector."""
    gain, bias = (
        t.detach().to(like) if isinstance(t, torch.Tensor) else None
        for t in (getattr(module, name, None) for name in ("weight", "bias"))
    )
    gains = [torch.ones_like(like)] if gain is None else [gain, 1 + gain]
    told = [getattr(module, name) for name in EPS_NAMES if isinstance(getattr(module, name, None), float)]
    for of, centred, eps in product(gains, (False, True), told or EPS):
        yield Norm(gain=of, shift=bias, centred=centred, eps=eps)
