"""What a loaded model holds in memory."""

from __future__ import annotations

from typing import Any

__all__ = ["stored_bytes"]


def stored_bytes(model: Any) -> int:
    """Bytes of everything a loaded model holds, packed weights and their scales included."""
    import torch

    held: dict[int, int] = {}

    def add(tensor: Any) -> None:
        if hasattr(tensor, "__tensor_flatten__") and type(tensor) is not torch.Tensor:
            for part in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, part))
        else:
            held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()

    for parameter in [*model.parameters(), *model.buffers()]:
        add(parameter.data)
        state = getattr(parameter, "quant_state", None)
        nested = getattr(state, "state2", None)
        extra = [getattr(s, k, None) for s in (state, nested) for k in ("absmax", "code")]
        for tensor in [*extra, getattr(parameter, "SCB", None)]:
            if isinstance(tensor, torch.Tensor):
                add(tensor)
    return sum(held.values())
