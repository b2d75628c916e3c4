"""Null controls: what changes without any quantization.

`rerun` is the parent once more, `dtype` the parent in another float type, and `noise` the parent with
Gaussian noise of the size of one variant's own quantization error. An effect that its noise control
shows as well is an effect of disturbing the weights, not of how they were quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from quantxai.checkpoints import disturbed
from quantxai.methods import Control, MatchedControl

__all__ = ["Dtype", "Noise", "Rerun"]


class Rerun(Control):
    """The parent again, in a process of its own."""

    method: ClassVar[str] = "rerun"
    summary: ClassVar[str] = "control: the unquantized parent once more"

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return "rerun"


class Dtype(Rerun):
    """The parent in another float type than the sweep's."""

    method: ClassVar[str] = "dtype"
    summary: ClassVar[str] = "control: the unquantized parent in another float type"

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Its float type; auto: bfloat16 in a float32 sweep, else float32."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return "dtype" if self.dtype == "auto" else f"dtype-{self.dtype}"

    def compute_dtype(self, sweep: str) -> str:
        """See Quantizer.compute_dtype."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if sweep == "float32" else "float32"


class Noise(MatchedControl):
    """Gaussian noise on each layer that the other variant quantizes, of the same Frobenius norm."""

    method: ClassVar[str] = "noise"
    summary: ClassVar[str] = "control: Gaussian noise as large as another variant's quantization error"

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return f"noise-{self.of}"

    def disturb(self, parent: Path, errors: Mapping[str, float], out: Path, seed: int) -> None:
        """See MatchedControl.disturb."""
        disturbed(parent, errors, seed).save_pretrained(out)
