"""bitsandbytes: int8 with quantized activations (LLM.int8), nf4 and fp4 weights.

Dettmers et al. 2022, "LLM.int8()", arXiv 2208.07339; Dettmers et al. 2023, "QLoRA", arXiv 2305.14314.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from quantxai.methods import Quantizer

__all__ = ["BitsAndBytes"]

EXACT_WIDTH = 1024
"""Products of int8 values sum exactly in float32 up to this many terms: 1024 * 127**2 < 2**24."""


class BitsAndBytes(Quantizer):
    """8- and 4-bit weights of bitsandbytes, quantized when loaded."""

    method: ClassVar[str] = "bnb"
    summary: ClassVar[str] = "bitsandbytes: int8 (weights and activations), nf4, fp4; quantizes at load"
    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes", "accelerate")

    format: Literal["int8", "nf4", "fp4"] = Field("nf4", description="Number format of the weights.")
    double_quantization: bool = Field(True, description="nf4, fp4: quantize the block scales too.")
    outlier_threshold: float = Field(
        6.0, ge=0, description="int8: activation columns above it stay in floating point."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        single = self.format != "int8" and not self.double_quantization
        return f"{self.format}-single" if single else self.format

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return 8.0 if self.format == "int8" else 4.0

    @property
    def bits_per_weight(self) -> float | None:
        """With the scales: one float32 a row (int8), or one a block of 64 (8 bits each when doubled)."""
        if self.format == "int8":
            return None  # one scale a row: depends on the layers' widths, and is below 0.1 bit
        return 4 + (8 / 64 + 32 / (64 * 256) if self.double_quantization else 32 / 64)

    def layer_bits(self, width: int) -> float | None:
        """See Quantizer.layer_bits. int8 has one float32 scale a row."""
        return 8 + 32 / width if self.format == "int8" else self.bits_per_weight

    @property
    def has_twin(self) -> bool:
        """int8 also rounds activations, which no dense matrix reproduces."""
        return self.format != "int8"

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        if self.format == "int8":
            settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.outlier_threshold)
            if device == "cpu":
                use_exact_float_matmul()
        else:
            settings = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=self.format,
                bnb_4bit_use_double_quant=self.double_quantization,
                bnb_4bit_compute_dtype=getattr(torch, dtype),
            )
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), device_map=device, quantization_config=settings
        )
        keep_weights_packed_once(model)
        return model.eval()


def keep_weights_packed_once(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward pass.

    On CPUs with AVX512-BF16, Linear4bit replaces its packed weights at the first pass without
    gradients. Gradients then skip the layer silently, and a model saved afterwards without double
    quantization is corrupt.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


@cache
def use_exact_float_matmul() -> bool:
    """On a CPU without int8 instructions, multiply int8 matrices in float32: same integers, faster.

    bitsandbytes calls torch._int_mm, which without VNNI runs at a tenth of the float32 speed. Sums of
    at most EXACT_WIDTH products of int8 values are exact in float32, and partial sums are added as
    int32, so the result is the same to the last bit.

    Returns:
        Whether the kernel was replaced.
    """
    import bitsandbytes  # noqa: F401  (defines the operator)
    import torch

    if torch.cpu._is_vnni_supported():
        return False
    library = torch.library.Library("bitsandbytes", "IMPL")
    library.impl("int8_linear_matmul", exact_int8_matmul, "CPU", allow_override=True)
    _kept.append(library)
    return True


_kept: list[Any] = []
"""torch drops an override when its Library is collected."""


def exact_int8_matmul(a: Any, b: Any) -> Any:
    """Return a @ b.T as int32 for int8 a [..., width] and b [rows, width], computed in float32."""
    import torch

    flat = a.reshape(-1, a.shape[-1])
    total = None
    for start in range(0, flat.shape[1], EXACT_WIDTH):
        part = slice(start, start + EXACT_WIDTH)
        product = (flat[:, part].float() @ b[:, part].float().T).to(torch.int32)
        total = product if total is None else total.add_(product)
    assert total is not None
    return total.reshape(*a.shape[:-1], b.shape[0])
