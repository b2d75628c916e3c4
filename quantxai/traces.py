"""What is seen at one position of each prompt, and what is added there: hooks behind quantxai.internals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from quantxai.anatomy import Anatomy
from quantxai.hooks import Hook, given, returned

__all__ = ["Seen", "Trace", "ablation_hooks", "patch_hooks", "trace_hooks"]

Seen: TypeAlias = "dict[str, dict[int, torch.Tensor]]"
"""What hooks noted: by what it is and by layer."""


@dataclass(frozen=True)
class Trace:
    """What a forward pass held at one position of a prompt, in working precision on the model's device.

    Attributes:
        tokens: the whole prompt.
        position: which of its tokens.
        residuals: what enters each layer, [layers + 1, hidden]; the last one enters the final norm.
        attention: what each attention sublayer adds to the residual stream, [layers, hidden].
        ffn: what each FFN adds, [layers, hidden].
        heads: what the attention output projections read, the heads side by side, [layers, heads * width].
        neurons: what the FFN output projections read, the neurons' activations, [layers, ffn width].
        attention_scale: what the block's own norm of the attention's output divides by, [layers]; 1 where
            there is none.
        ffn_scale: the same of the FFN's output.
    """

    tokens: tuple[int, ...]
    position: int
    residuals: torch.Tensor
    attention: torch.Tensor
    ffn: torch.Tensor
    heads: torch.Tensor
    neurons: torch.Tensor
    attention_scale: torch.Tensor
    ffn_scale: torch.Tensor


def trace_hooks(anatomy: Anatomy, seen: Seen, ends: torch.Tensor) -> list[Hook]:
    """Return hooks that note what a `Trace` is made of.

    Args:
        anatomy: the model's parts.
        seen: where it is noted; what stands at the rows' places, [rows, ...].
        ends: each row's place, counted from the end, [rows]: -1 is the last.
    """
    rows = torch.arange(len(ends), device=ends.device)

    def note(key: str, layer: int, states: torch.Tensor) -> None:
        # OPT's FFN lays the rows' tokens side by side.
        wide = states.reshape(len(rows), -1, states.shape[-1])
        picked = wide[rows.to(states.device), ends.to(states.device)].to(ends.device, anatomy.readout.dtype)
        seen.setdefault(key, {})[layer] = picked

    def before(key: str, layer: int) -> Callable[..., None]:
        return lambda module, args, kwargs: note(key, layer, given(args, kwargs))

    def after(key: str, layer: int) -> Callable[..., None]:
        return lambda module, args, kwargs, output: note(key, layer, returned(output))

    hooks: list[Hook] = [(anatomy.final_norm, before("residuals", len(anatomy.blocks)), True)]
    for layer, block in enumerate(anatomy.blocks):
        hooks.append((block.module, before("residuals", layer), True))
        for name, read, part in (("attention", "heads", block.attention), ("ffn", "neurons", block.ffn)):
            hooks.append((part.output, before(read, layer), True))
            hooks.append((part.output, after(f"{name}_raw", layer), False))
            hooks.append((part.adds, after(name, layer), False))
    return hooks


def patch_hooks(
    anatomy: Anatomy, layers: Sequence[int], ends: torch.Tensor, vectors: torch.Tensor
) -> list[Hook]:
    """Return hooks that add to the residual stream.

    Args:
        anatomy: the model's parts.
        layers: for each row the layer whose input is changed; one more than the last is the final norm.
        ends: each row's place, counted from the end, [rows]: -1 is the last.
        vectors: what is added, [rows, hidden].
    """
    modules = [b.module for b in anatomy.blocks] + [anatomy.final_norm]

    def patch(layer: int) -> Callable[..., Any]:
        rows = torch.tensor([i for i, of in enumerate(layers) if of == layer], device=ends.device)

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            states = given(args, kwargs).clone()
            states[rows.to(states.device), ends[rows].to(states.device)] += vectors[rows].to(states)
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        return hook

    return [(modules[layer], patch(layer), True) for layer in sorted(set(layers))]


def ablation_hooks(
    anatomy: Anatomy, neurons: Sequence[Sequence[tuple[int, int]]], ends: torch.Tensor
) -> list[Hook]:
    """Return hooks that set activations of FFN neurons to 0.

    Args:
        anatomy: the model's parts.
        neurons: (layer, place in the layer) of those of each row.
        ends: each row's place, counted from the end, [rows]: -1 is the last.
    """
    by_layer: dict[int, list[tuple[int, int]]] = {}
    for row, chosen in enumerate(neurons):
        for layer, place in chosen:
            by_layer.setdefault(layer, []).append((row, place))

    def ablate(layer: int) -> Callable[..., Any]:
        rows, places = torch.tensor(by_layer[layer]).unbind(1)

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            states = given(args, kwargs).clone()
            wide = states.view(len(ends), -1, states.shape[-1])
            at = (rows, ends.cpu()[rows], places)
            wide[tuple(index.to(states.device) for index in at)] = 0
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        return hook

    return [(anatomy.blocks[layer].ffn.output, ablate(layer), True) for layer in sorted(by_layer)]
