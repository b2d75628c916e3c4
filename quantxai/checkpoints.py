"""Dense checkpoints: loading them, and writing a quantized model's dequantized twin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantxai.errors import ModelError

__all__ = [
    "dense_copy",
    "disturbed",
    "effective_weight",
    "exact_half_products",
    "load_dense",
    "load_tokenizer",
    "quantized_layers",
    "stored_dtype",
    "tensor_shapes",
    "write_twin",
]

IDENTITY_ROWS = 1024
"""Rows of the identity that are fed through a layer at a time."""


def load_dense(source: Path, dtype: str, device: str, **settings: Any) -> Any:
    """Load a checkpoint with transformers, in evaluation mode.

    Args:
        source: its directory.
        dtype: compute type.
        device: torch device.
        settings: more for transformers' from_pretrained, such as how a quantized checkpoint is to be run.

    Raises:
        ModelError: transformers cannot load it.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), device_map=device, **settings
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model '{source}' cannot be loaded: {reason}. If it lies in quantxai's cache, remove that "
            "folder and give the same command again: it is made anew."
        ) from error
    return model.eval()


def stored_dtype(source: Path) -> str:
    """Return the float type a checkpoint's config says it is stored in; float32 where it does not."""
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(source).dtype or "float32").removeprefix("torch.")


def load_tokenizer(source: Path) -> Any:
    """Load a checkpoint's tokenizer.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model '{source}': its tokenizer cannot be loaded: {reason}") from error


def tensor_shapes(source: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor of a safetensors checkpoint, from the files' headers.

    Raises:
        ModelError: a file is cut off or is no safetensors file.
    """
    shapes: dict[str, list[int]] = {}
    for file in sorted(source.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size))
            ends = [e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"]
            whole = 8 + size + max(ends, default=0) == file.stat().st_size
        except (ValueError, KeyError, TypeError, MemoryError, OverflowError):
            whole, header = False, {}
        if not whole:
            raise ModelError(f"'{file}' is cut off or no safetensors file; get or make the checkpoint again")
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return shapes


def quantized_layers(model: Any) -> dict[str, Any]:
    """Return the layers that do more than multiply with a floating-point matrix, by name.

    Found by structure: anything with in_features and out_features, unless it is a torch.nn.Linear over
    an ordinary floating-point parameter and with torch.nn.Linear's own forward.
    """
    import torch

    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "in_features")
        and hasattr(module, "out_features")
        and not (
            type(module) is torch.nn.Linear and _has_plain_matrix(module) and "forward" not in vars(module)
        )
    }


def _has_plain_matrix(module: Any) -> bool:
    import torch

    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, torch.nn.Parameter)
        and type(weight.data) is torch.Tensor
        and weight.is_floating_point()
    )


def effective_weight(module: Any, dtype: Any) -> Any:
    """Return the matrix [out_features, in_features] a linear layer multiplies with.

    Packed weights never matter: where there is no plain matrix, the identity is fed through the layer, in
    blocks. Its bias is zero meanwhile: taken off afterwards, it would leave the rounding of a sum that it
    may be most of.

    Args:
        module: any layer that is linear in its input.
        dtype: type to feed, one the layer's kernel computes in.
    """
    import torch

    if _has_plain_matrix(module) and module.weight.shape == (module.out_features, module.in_features):
        return module.weight.detach().to(dtype, copy=True)
    device = next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
    matrix = None
    with torch.inference_mode(), exact_half_products(), _without_bias(module):
        for start in range(0, module.in_features, IDENTITY_ROWS):
            rows = min(IDENTITY_ROWS, module.in_features - start)
            block = torch.zeros(rows, module.in_features, dtype=dtype, device=device)
            block[:, start : start + rows].fill_diagonal_(1)
            columns = module(block)
            if matrix is None:
                with torch.inference_mode(False):  # what is returned may be used where gradients are taken
                    matrix = columns.new_empty(columns.shape[1], module.in_features)
            matrix[:, start : start + rows] = columns.T
    return matrix


@contextmanager
def _without_bias(module: Any) -> Iterator[None]:
    """Zero a layer's bias for a while, in place, as kernels may hold the tensor; in inference mode only."""
    import torch

    bias = getattr(module, "bias", None)
    if not isinstance(bias, torch.Tensor):
        yield
        return
    kept = bias.detach().clone()
    try:
        bias.detach().zero_()
        yield
    finally:
        bias.detach().copy_(kept)


def exact_half_products() -> Any:
    """Return a context in which 16-bit matrix products on a CPU are computed in float32 and rounded.

    Each element of a product with the identity is one number plus zeros, so nothing changes but the
    time: CPUs without 16-bit instructions multiply such matrices at a fiftieth of float32's speed.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    products = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.nn.functional.linear}

    class Float32Products(TorchFunctionMode):  # type: ignore[misc]  # torch is not followed by mypy
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            halves = (torch.float16, torch.bfloat16)
            if func in products and not kwargs and all(_on_cpu(a, halves) for a in args):
                return func(*(a.float() for a in args)).to(args[0].dtype)
            return func(*args, **(kwargs or {}))

    return Float32Products()


def _on_cpu(value: Any, dtypes: tuple[Any, ...]) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dtype in dtypes


def write_twin(model: Any, out: Path, dtype: str) -> None:
    """Write the dense model of the same function as a checkpoint; see dense_copy."""
    dense_copy(model, dtype).save_pretrained(out)


def dense_copy(model: Any, dtype: str) -> Any:
    """Return a dense model that computes what a weight-only quantized one does.

    Everything but the quantized layers is taken from the quantized model, not from the parent: AWQ
    moves scales into norms and into preceding layers.

    Args:
        model: the loaded quantized model.
        dtype: type of the matrices.

    Raises:
        ModelError: the architecture's dense form does not have the same parameters.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, dtype)
    layers = quantized_layers(model)
    state: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in layers:
            state[name] = parameter.detach().to(kind)
    for name, module in layers.items():
        state[f"{name}.weight"] = effective_weight(module, model.dtype).to(kind)
        if getattr(module, "bias", None) is not None:
            state[f"{name}.bias"] = module.bias.detach().to(kind)
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    with torch.device("meta"):
        dense = AutoModelForCausalLM.from_config(config, dtype=kind)
    missing, unexpected = dense.load_state_dict(state, strict=False, assign=True)
    dense.tie_weights()
    left = [n for n, p in dense.named_parameters() if p.device.type == "meta"]
    if left or unexpected:
        raise ModelError(
            f"the dequantized twin lacks {', '.join(left[:3]) or 'nothing'} and does not know "
            f"{', '.join(unexpected[:3]) or 'nothing'} (missing from the state: {len(missing)}); "
            'run this variant with execution = "kernel"'
        )
    dense.generation_config = model.generation_config
    # What is computed and not stored, such as rotary frequencies, is still on the meta device.
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if owner not in layers and dense.get_submodule(owner)._buffers.get(leaf) is not None:
            dense.get_submodule(owner)._buffers[leaf] = buffer.detach().clone()
    return dense.eval()


def disturbed(parent: Path, errors: Mapping[str, float], seed: int) -> Any:
    """Return the parent in float32 with Gaussian noise on some of its layers.

    Args:
        parent: directory of the parent checkpoint.
        errors: Frobenius norm of the noise, by layer name; each layer's noise has exactly this norm.
        seed: of the noise, together with the layer's name.
    """
    import torch

    model = load_dense(parent, "float32", "cpu")
    with torch.inference_mode():
        for name, norm in errors.items():
            weight = model.get_submodule(name).weight
            number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8])
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            weight += noise * (norm / noise.norm())
    return model
