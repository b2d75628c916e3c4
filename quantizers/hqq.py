"""What torchao calls HQQ with scales only: least-squares scales, no calibration.

Rounding and the scale s that minimises |W - s Q|^2 alternate, group by group, on a symmetric grid. The
paper it is named after fits zero points under a norm below 1, which forgives outliers; this does not
(Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models").
"""

from __future__ import annotations

from typing import ClassVar

from quantizers.rtn import Intx

__all__ = ["HalfQuadratic"]


class HalfQuadratic(Intx):
    """The nearest point of a grid whose scale fits a group's weights best."""

    method: ClassVar[str] = "hqq"
    summary: ClassVar[str] = (
        "least-squares scales (torchao's HQQ, scales only): 2, 3, 4, 8 bit, no calibration"
    )
    scales: ClassVar[str] = "hqq_scale_only"
