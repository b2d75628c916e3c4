"""Projections: modules that multiply with a matrix, packed or not."""

from __future__ import annotations

from typing import Any

import torch

from quantxai.checkpoints import _has_plain_matrix, effective_weight
from quantxai.norms import working_dtype

__all__ = ["inputs_of", "is_projection", "output_matrix", "outputs_of"]


def is_projection(module: Any) -> bool:
    """Return whether a module multiplies with a matrix, packed or not: Linear and its kin, or GPT-2's Conv1D."""
    return hasattr(module, "in_features") or (hasattr(module, "nf") and hasattr(module, "nx"))


def inputs_of(projection: Any) -> int:
    """Return how many numbers a projection reads."""
    return int(getattr(projection, "in_features", None) or projection.nx)


def outputs_of(projection: Any) -> int:
    """Return how many numbers a projection puts out."""
    return int(getattr(projection, "out_features", None) or projection.nf)


def output_matrix(module: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the matrix [outputs, inputs] a projection multiplies with, in working precision.

    Packed weights never matter: see quantxai.checkpoints.effective_weight.

    Args:
        module: the projection.
        dtype: the model's, for a packed layer without any floating-point tensor to tell it.
    """
    if not hasattr(module, "in_features"):  # GPT-2's Conv1D holds the transposed matrix
        return module.weight.detach().T.to(working_dtype(module.weight.dtype), copy=True)
    # What a packed layer calls its weight need not be a tensor.
    weight: Any = getattr(module, "weight", None)
    stored = [weight, getattr(module, "bias", None), *module.buffers()]
    kinds = (t.dtype for t in stored if isinstance(t, torch.Tensor) and t.is_floating_point())
    kind = next(kinds, dtype)
    if _has_plain_matrix(module) and weight.shape == (module.out_features, module.in_features):
        return effective_weight(module, working_dtype(kind))  # one copy, not one in each type
    return effective_weight(module, kind).to(working_dtype(kind))
