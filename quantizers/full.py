"""The unquantized parent, in a float type of choice."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from quantxai.methods import Unquantized

__all__ = ["Full"]


class Full(Unquantized):
    """The parent's own weights."""

    method: ClassVar[str] = "full"
    summary: ClassVar[str] = "the unquantized parent (float32, bfloat16, float16)"

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute type of this variant; auto: the sweep's."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return "full" if self.dtype == "auto" else f"full-{self.dtype}"

    def compute_dtype(self, sweep: str) -> str:
        """See Quantizer.compute_dtype."""
        return sweep if self.dtype == "auto" else self.dtype
