"""GPTQ by gptqmodel, in the AutoGPTQ checkpoint layout.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", arXiv 2210.17323.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from unittest.mock import patch

from pydantic import Field

from quantizers.gptqmodel_support import START_SECONDS, calibration_dtype, calibration_flops, solver_bytes
from quantxai.checkpoints import load_dense
from quantxai.lm import Architecture
from quantxai.methods import Grid, Quantizer, check_group_size
from quantxai.shapes import Shape

if TYPE_CHECKING:
    from quantxai.devices import Device

__all__ = ["GPTQ"]

COLUMN_SECONDS = {"cpu": 1e-4, "cuda": 3e-4}
"""Rounding one column and spreading its error takes a few small operations; on a GPU, an assumption."""
WEIGHT_SECONDS = {"cpu": 4.6e-7, "cuda": 0.0}
"""And it touches the block's other columns; on a GPU, next to nothing."""
BLOCK = 32
"""Columns whose errors are spread one by one."""


class GPTQ(Quantizer):
    """Weights rounded column by column, each error compensated in the columns still to come."""

    method: ClassVar[str] = "gptq"
    summary: ClassVar[str] = "GPTQ (gptqmodel): 2, 3, 4, 8 bit, group size, act-order, calibrated"
    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    calibrated: ClassVar[bool] = True
    writes_checkpoint: ClassVar[bool] = True

    bits: Literal[2, 3, 4, 8] = Field(4, description="Bits per weight.")
    group_size: int = Field(
        64, ge=8, description="Weights that share a scale; must divide every layer's width."
    )
    symmetric: bool = Field(True, description="Grid symmetric around zero.")
    act_order: bool = Field(False, description="Quantize columns in order of decreasing activation size.")
    damping: float = Field(
        0.05, gt=0, lt=1, description="Added to the Hessian's diagonal, share of its mean."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return f"gptq-{self.bits}"

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return float(self.bits)

    @property
    def grid(self) -> Grid:
        """See Quantizer.grid."""
        return Grid(self.bits, self.group_size, self.symmetric)

    def calibration_dtype(self, device: str, sweep: str) -> str:
        """See Quantizer.calibration_dtype."""
        return calibration_dtype(device, sweep, self.bits)

    def check(self, architecture: Architecture) -> None:
        """See Quantizer.check."""
        check_group_size(self.group_size, architecture)

    def making_bytes(self, shape: Shape, tokens: int, device: Device) -> int:
        """See Quantizer.making_bytes."""
        return solver_bytes(shape, tokens, device, self.bits, in_float32=4.5, in_16_bits=2.25)

    def making_seconds(self, shape: Shape, tokens: int, device: Device) -> float:
        """See Quantizer.making_seconds.

        Two passes over the calibration text, a second moment matrix of every layer's inputs in float32, and
        the columns, one after the other. The constants are fitted to benchmarks/footprint.py.
        """
        passes = tokens * 2 * 2 * shape.linear_parameters / calibration_flops(device, self.bits)
        moments = tokens * shape.layers * sum(2 * x.width**2 for x in shape.linears) / device.float32_flops
        columns = shape.layers * sum(x.width for x in shape.linears)
        solving = (
            COLUMN_SECONDS[device.kind] * columns + WEIGHT_SECONDS[device.kind] * shape.linear_parameters
        )
        return START_SECONDS + passes + moments + solving

    def quantize(
        self,
        parent: Path,
        calibration: Sequence[Sequence[int]],
        out: Path,
        device: str,
        dtype: str,
        observe: Callable[[Any], None],
    ) -> None:
        """See Quantizer.quantize. Hessians and columns are of float32, whatever the text is read in."""
        from quantizers.gptqmodel_support import import_gptqmodel, logs_discarded

        gptqmodel = import_gptqmodel()
        import torch

        settings = gptqmodel.QuantizeConfig(
            bits=self.bits,
            group_size=self.group_size,
            sym=self.symmetric,
            desc_act=self.act_order,
            damp_percent=self.damping,
            offload_to_disk=False,
            device=device,
        )
        model = gptqmodel.GPTQModel.load(str(parent), settings, dtype=getattr(torch, dtype))
        examples = [{"input_ids": list(s), "attention_mask": [1] * len(s)} for s in calibration]
        with logs_discarded(), small_blocks() if device == "cpu" else nullcontext():
            model.quantize(examples, batch_size=8)
        model.save(str(out))
        # The live model keeps the zero points as they are stored, one too low, and its kernel takes them as
        # they are: as it stands it computes nonsense. Loading adds the one, and so must whoever observes it.
        from gptqmodel.nn_modules.qlinear.torch import TorchLinear
        from gptqmodel.utils.model import convert_gptq_v1_to_v2_format

        observe(convert_gptq_v1_to_v2_format(model.model, settings, TorchLinear))

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        return load_gptq(source, self.bits, self.group_size, dtype, device)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Let gptqmodel spread a column's error over 31 others at once, and to all further ones in one product.

    In its blocks of 128 that loop takes half as long again on a CPU, and of groups of 64 every second one's scale
    is found before the errors of the first have been spread. Its GPU kernel has blocks of 128.
    """
    from gptqmodel.quantization import gptq

    with patch.object(gptq.GPTQ, "quantize", partialmethod(gptq.GPTQ.quantize, blocksize=BLOCK)):
        yield


def load_gptq(source: Path, bits: int, group_size: int, dtype: str, device: str) -> Any:
    """Load a GPTQ checkpoint (v1 or v2) on gptq_torch: `auto` picks kernels whose gradients are wrong."""
    from quantizers.gptqmodel_support import import_gptqmodel

    import_gptqmodel()
    from transformers import GPTQConfig

    settings = GPTQConfig(bits=bits, group_size=group_size, backend="gptq_torch")
    return load_dense(source, dtype, device, quantization_config=settings)
