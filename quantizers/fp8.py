"""8-bit floating-point weights by torchao, one scale a row.

Micikevicius et al. 2022, "FP8 Formats for Deep Learning", arXiv 2209.05433 (e4m3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from quantxai.checkpoints import load_dense
from quantxai.methods import Quantizer

__all__ = ["Float8"]


class Float8(Quantizer):
    """torchao's weight-only float8: nearest e4m3 number, no calibration."""

    method: ClassVar[str] = "fp8"
    summary: ClassVar[str] = "float8 e4m3 weights (torchao), one scale a row, no calibration"
    packages: ClassVar[tuple[str, ...]] = ("torchao",)

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return "fp8"

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return 8.0

    def layer_bits(self, width: int) -> float:
        """See Quantizer.layer_bits: one float32 scale a row."""
        return 8 + 32 / width

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        import torch
        from torchao.quantization import Float8WeightOnlyConfig, quantize_

        model = load_dense(source, dtype, device)
        head = model.get_output_embeddings()
        quantize_(
            model, Float8WeightOnlyConfig(), lambda m, _: isinstance(m, torch.nn.Linear) and m is not head
        )
        return model
