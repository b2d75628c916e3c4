"""Where attention takes its values from: the way from neurons at earlier positions to the last one.

A head's part of what the last token's attention puts out is a mean of values, one of each position p, and
a value is linear in the residual h_p but for the scale s_p of the norm before it:

```
heads(last) = sum over p of alpha_p * (V h_p / s_p + c)      alpha_p: attention weight, V: value matrix
```

Where a family keeps the values' rows among those of a fused projection (Phi-3, GPT-2 one after the other,
GPT-NeoX and Falcon head by head) is not read off names but found: they are the blocks of the projection's
output that the model puts into its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantxai.anatomy import Anatomy, attention_of, missing, same
from quantxai.hooks import Call, run_probe
from quantxai.norms import Norm, read_norm
from quantxai.projections import is_projection, output_matrix

__all__ = ["Values", "find_values"]

TOLERANCE = 0.05
"""Largest relative difference of what a projection puts out and what is cached: kernels of packed layers round."""


@dataclass(frozen=True)
class Values:
    """Where one layer's values come from.

    Attributes:
        projection: the module that computes them, maybe with queries and keys.
        rows: for each query head, which of the projection's outputs are its value, [heads * head width].
        norm: of what the projection reads; null where it reads the residual stream itself (OLMo 2).
    """

    projection: Any
    rows: torch.Tensor
    norm: Norm | None

    def scale(self, residuals: torch.Tensor) -> torch.Tensor:
        """Return what residuals [..., hidden] are divided by before they are projected, [...]."""
        return residuals.new_ones(residuals.shape[:-1]) if self.norm is None else self.norm.scale(residuals)

    def matrix(self) -> torch.Tensor:
        """Return V, [heads * head width, hidden], the norm's gain and centring folded in."""
        found = output_matrix(self.projection)
        found = found[self.rows.to(found.device)]
        if self.norm is None:
            return found
        found = found * self.norm.gain
        return found - found.mean(-1, keepdim=True) if self.norm.centred else found

    def constant(self) -> torch.Tensor:
        """Return c, [heads * head width]: the projection's bias and what the norm's shift makes."""
        plain = output_matrix(self.projection)
        rows = self.rows.to(plain.device)
        found = plain.new_zeros(len(rows))
        bias = getattr(self.projection, "bias", None)
        if bias is not None:
            found += bias.detach()[rows]
        if self.norm is not None and self.norm.shift is not None:
            found += plain[rows] @ self.norm.shift.to(plain)
        return found


def find_values(model: Any, anatomy: Anatomy) -> tuple[Values, ...]:
    """Find where every layer's values come from.

    Raises:
        ModelError: no projection's output is what the model caches, or it reads something else than the
            residual stream or a norm of it.
    """
    probe = run_probe(model, anatomy.readout.hidden)
    names = {id(m): n for n, m in model.named_modules()}
    found = []
    for number, block in enumerate(anatomy.blocks):
        inside = [c for c in probe.calls if c.name.startswith(f"{names[id(block.module)]}.")]
        residual = next(c.given for c in probe.calls if c.module is block.module)
        attention = {id(m) for m in attention_of(block.module).modules()}
        read = [c for c in inside if id(c.module) in attention and c.module is not block.attention.output]
        values = _values(model, anatomy, read, inside, residual, probe.values[number])
        if values is None:
            raise missing(model, f"where the values of layer {number} come from; query neurons need it")
        found.append(values)
    return tuple(found)


def _values(
    model: Any,
    anatomy: Anatomy,
    read: Sequence[Call],
    inside: Sequence[Call],
    residual: torch.Tensor | None,
    cached: torch.Tensor | None,
) -> Values | None:
    for call in read:
        if cached is None or call.given is None or not is_projection(call.module):
            continue
        rows = _rows(model, call, cached, anatomy.heads)
        if rows is None or len(rows) != anatomy.heads * anatomy.head_width:
            continue
        if same(call.given, residual):
            return Values(call.module, rows, None)
        before = [c.module for c in inside if same(c.returned, call.given) and not list(c.module.children())]
        norm = read_norm(before[0], call.given.shape[-1], model) if before else None
        return None if norm is None else Values(call.module, rows, norm)
    return None


def _rows(model: Any, call: Call, cached: torch.Tensor, heads: int) -> torch.Tensor | None:
    """Which outputs of a projection are the values [key/value heads, tokens, width] of the query heads."""
    device = next(model.parameters()).device
    with torch.no_grad():
        made = call.module(call.given.to(device))[0].double().cpu()  # type: ignore[union-attr]
    shared, tokens, width = cached.shape
    if made.shape[0] != tokens or made.shape[1] % width or heads % shared:
        return None
    blocks = made.reshape(tokens, -1, width).transpose(0, 1)
    of_head = []
    for value in cached.double():
        errors = (blocks - value).norm(dim=(1, 2)) / value.norm()
        if not errors.min() <= TOLERANCE:  # nan, where nothing is cached but zeros
            return None
        of_head += [int(errors.argmin())] * (heads // shared)
    return (torch.tensor(of_head)[:, None] * width + torch.arange(width)).flatten()
