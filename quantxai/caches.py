"""Keys and values that grow in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["continued", "growing_cache", "layers_of", "merged"]

ROOM = 32
"""Tokens that cached keys and values can grow by before they are moved."""


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache, which grows in place wherever it would grow by concatenation."""
    cache = DynamicCache(config=config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = _GrowingLayer
    return cache


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed by mypy
    """Keys and values with room for ROOM more tokens.

    Concatenation copies every key and value of every row once per generated token, 8 % of the time
    that edits take on a CPU.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See DynamicLayer.update. What it was first given is never written to."""
        start = self.get_seq_length()
        if start == 0:
            super().update(key_states, value_states)
            return self.keys, self.values
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = (_widened(self.keys, end + ROOM), _widened(self.values, end + ROOM))
        keys, values = self._room
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """See DynamicLayer.batch_select_indices. There is room for ROOM more tokens again."""
        self.fill([(self, indices)], self.get_seq_length())

    def fill(self, parts: Sequence[tuple[DynamicLayer, torch.Tensor]], width: int) -> None:
        """Take over chosen rows of layers, their last `width` tokens; shorter ones are padded on the left."""
        keys = _aligned([(layer.keys, rows) for layer, rows in parts], width)
        values = _aligned([(layer.values, rows) for layer, rows in parts], width)
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self._room = keys, values
        self.keys, self.values = keys[..., :width, :], values[..., :width, :]


def _aligned(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], width: int) -> torch.Tensor:
    """Chosen rows of [rows, heads, tokens, dimension], aligned on the right at `width`, and ROOM behind."""
    heads, _, dimension = parts[0][0].shape[1:]
    wide = parts[0][0].new_zeros((sum(len(rows) for _, rows in parts), heads, width + ROOM, dimension))
    start = 0
    for states, rows in parts:
        size = min(width, states.shape[2])
        wide[start : start + len(rows), :, width - size : width] = states[rows, :, -size:]
        start += len(rows)
    return wide


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    """A copy of [rows, heads, tokens, dimension] with `width` tokens; those added are not initialised."""
    wide = states.new_empty((*states.shape[:2], width, states.shape[3]))
    wide[..., : states.shape[2], :] = states
    return wide


def continued(cache: Any, config: Any) -> Any:
    """A cache that continues from the same keys and values and leaves them as they are."""
    copy = growing_cache(config)
    for source, target in zip(cache.layers, layers_of(copy, len(cache.layers)), strict=True):
        target.update(source.keys, source.values)
    return copy


def layers_of(cache: Any, count: int) -> list[Any]:
    """The cache's layers, created where the cache makes them lazily."""
    while len(cache.layers) < count:
        cache.layers.append(cache.layer_class_to_replicate())
    return list(cache.layers)


def merged(parts: Sequence[tuple[Any, torch.Tensor, Sequence[int]]], config: Any) -> tuple[Any, torch.Tensor]:
    """Chosen rows of caches as one cache, and its mask.

    Args:
        parts: cache, mask [rows, tokens] and rows to keep; more than one only where all attention is full,
            since keys and values then mean the same in whichever column they stand.
        config: the model's.
    """
    if len(parts) == 1:
        cache, mask, keep = parts[0]
        if len(keep) < len(mask):
            rows = torch.tensor(keep, device=mask.device)
            cache.batch_select_indices(rows)
            mask = mask[rows]
        return cache, mask
    chosen = [torch.tensor(keep, device=mask.device) for _, mask, keep in parts]
    masks = [mask[rows] for (_, mask, _), rows in zip(parts, chosen, strict=True)]
    # Columns on the left that are padding in every row would only be carried along.
    width = max(m.shape[1] - int(m.any(0).int().argmax()) for m in masks)
    cache = growing_cache(config)
    for index, layer in enumerate(layers_of(cache, len(parts[0][0].layers))):
        layer.fill([(c.layers[index], rows) for (c, _, _), rows in zip(parts, chosen, strict=True)], width)
    return cache, torch.cat([torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in masks])
