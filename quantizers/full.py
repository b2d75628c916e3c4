"""The unquantized parent, in a float type of choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from quantxai.checkpoints import load_dense
from quantxai.methods import Quantizer

__all__ = ["Full"]


class Full(Quantizer):
    """The parent's own weights."""

    method: ClassVar[str] = "full"
    summary: ClassVar[str] = "the unquantized parent (float32, bfloat16, float16)"
    packages: ClassVar[tuple[str, ...]] = ()

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute type of this variant; auto: the sweep's."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return "full" if self.dtype == "auto" else f"full-{self.dtype}"

    @property
    def weight_bits(self) -> None:
        """See Quantizer.weight_bits."""
        return None

    @property
    def has_twin(self) -> bool:
        """Its weights are dense already."""
        return False

    def compute_dtype(self, sweep: str) -> str:
        """See Quantizer.compute_dtype."""
        return sweep if self.dtype == "auto" else self.dtype

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        return load_dense(source, dtype, device)
