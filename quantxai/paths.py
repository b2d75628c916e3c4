"""What is seen at all positions of a prompt, and what its last token attends to: hooks behind quantxai.internals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from quantxai.anatomy import Anatomy, attention_of, missing
from quantxai.hooks import Hook, given, returned
from quantxai.norms import Norm
from quantxai.traces import Seen

__all__ = ["Paths", "eager", "path_hooks"]


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


def path_hooks(model: Any, anatomy: Anatomy, seen: Seen) -> list[Hook]:
    """Return hooks that note in `seen` what `Paths` is made of, for one prompt run `eager`."""
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
