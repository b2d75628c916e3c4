"""What attention carries from every position to the last: the way from earlier neurons to the answer.

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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from quantxai.anatomy import Anatomy, attention_of, is_projection, missing, output_matrix, same
from quantxai.hooks import Call, Hook, given, returned, run_probe
from quantxai.norms import Norm, read_norm

__all__ = ["Paths", "Values", "eager", "find_values", "observers"]

TOLERANCE = 0.05
"""Largest relative difference of what a projection puts out and what is cached: kernels of packed layers round."""


@dataclass(frozen=True)
class Paths:
    """What a forward pass held at all positions of one prompt, in working precision on the model's device.

    Attributes:
        tokens: the prompt.
        residuals: what enters each layer, [layers + 1, tokens, hidden]; the last ones enter the final norm.
        neurons: what the FFN output projections read, [layers, tokens, ffn width].
        ffn_scale: what the block's own norm of the FFN's output divides by, [layers, tokens]; 1 where none.
        attention_weights: what the last token attends to, [layers, heads, tokens].
        input_scale: what the norm before the values divides by, [layers, tokens]; 1 where there is none.
    """

    tokens: tuple[int, ...]
    residuals: torch.Tensor
    neurons: torch.Tensor
    ffn_scale: torch.Tensor
    attention_weights: torch.Tensor
    input_scale: torch.Tensor


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
        if errors.min() > TOLERANCE:
            return None
        of_head += [int(errors.argmin())] * (heads // shared)
    return (torch.tensor(of_head)[:, None] * width + torch.arange(width)).flatten()


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Let a model compute its attention in the one way that tells the weights."""
    usual = model.config._attn_implementation

    def choose(implementation: str) -> None:
        if model._can_set_attn_implementation():
            model.set_attn_implementation(implementation)
        else:  # Falcon's attention looks it up each time
            model.config._attn_implementation = implementation

    choose("eager")
    try:
        yield
    finally:
        choose(usual)


def observers(model: Any, anatomy: Anatomy, seen: dict[str, dict[int, torch.Tensor]]) -> list[Hook]:
    """Return hooks that note in `seen[what][layer]` what `Paths` is made of, for one prompt."""
    work = anatomy.readout.gain

    def note(key: str, layer: int, states: torch.Tensor) -> None:
        seen.setdefault(key, {})[layer] = states.reshape(-1, states.shape[-1]).to(work, copy=True)

    def before(key: str, layer: int) -> Callable[..., None]:
        return lambda module, args, kwargs: note(key, layer, given(args, kwargs))

    def after(layer: int, norm: Norm | None) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            states = returned(output).reshape(-1, returned(output).shape[-1])
            ones = work.new_ones(len(states))
            seen.setdefault("ffn_scale", {})[layer] = ones if norm is None else norm.scale(states).to(work)

        return hook

    def weights(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if not isinstance(output, tuple) or output[1] is None:
                raise missing(model, "the attention weights; query neurons need them")
            note("attention_weights", layer, output[1][0, :, -1])

        return hook

    hooks: list[Hook] = [(anatomy.final_norm, before("residuals", len(anatomy.blocks)), True)]
    for layer, block in enumerate(anatomy.blocks):
        hooks += [
            (block.module, before("residuals", layer), True),
            (block.ffn.output, before("neurons", layer), True),
            (block.ffn.output, after(layer, block.ffn.norm), False),
            (attention_of(block.module), weights(layer), False),
        ]
    return hooks
