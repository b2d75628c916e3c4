"""torchao's Intx weights, and round-to-nearest: the calibration-free control for every uniform grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from quantxai.checkpoints import load_dense
from quantxai.lm import Architecture
from quantxai.methods import Grid, Quantizer, check_group_size

__all__ = ["Intx", "RoundToNearest"]


class Intx(Quantizer):
    """Integers under a scale a group, without calibration; subclasses say how scales are chosen."""

    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    scales: ClassVar[str]
    """torchao's name for how scales are chosen."""

    bits: Literal[2, 3, 4, 8] = Field(4, description="Bits per weight.")
    group_size: int = Field(
        64, ge=8, description="Weights that share a scale; must divide every layer's width."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return f"{self.method}-{self.bits}"

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return float(self.bits)

    @property
    def grid(self) -> Grid:
        """See Quantizer.grid."""
        return Grid(self.bits, self.group_size, True)

    def kernel_bits(self, width: int, number_bits: int) -> float:
        """See Quantizer.kernel_bits. torchao keeps a weight of any width in a byte, and so a zero point."""
        return 8 + (number_bits + 8) / self.group_size

    def check(self, architecture: Architecture) -> None:
        """See Quantizer.check."""
        check_group_size(self.group_size, architecture)

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerGroup
        from torchao.quantization.quant_primitives import MappingType

        model = load_dense(source, dtype, device)
        head = model.get_output_embeddings()
        settings = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{self.bits}"),
            granularity=PerGroup(self.group_size),
            mapping_type=MappingType.SYMMETRIC if self.grid.symmetric else MappingType.ASYMMETRIC,
            intx_choose_qparams_algorithm=self.scales,
        )
        quantize_(model, settings, lambda m, _: isinstance(m, torch.nn.Linear) and m is not head)
        return model


class RoundToNearest(Intx):
    """The nearest point of a grid that reaches to the largest weight of each group."""

    method: ClassVar[str] = "rtn"
    summary: ClassVar[str] = "round-to-nearest (torchao Intx): 2, 3, 4, 8 bit; the calibration-free control"
    scales: ClassVar[str] = "affine"

    symmetric: bool = Field(True, description="Grid symmetric around zero, without zero points.")

    @property
    def grid(self) -> Grid:
        """See Quantizer.grid."""
        return Grid(self.bits, self.group_size, self.symmetric)
