"""AWQ by gptqmodel, in the AutoAWQ checkpoint layout.

Lin et al. 2024, "AWQ: Activation-aware Weight Quantization", arXiv 2306.00978: per-channel scales
are searched so that the layer's output changes least, then a clipping bound per group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

__all__ = ["AWQ"]


class AWQ(Quantizer):
    """Weights rounded after scaling the channels that carry large activations."""

    method: ClassVar[str] = "awq"
    summary: ClassVar[str] = "AWQ (gptqmodel): 4 and 8 bit, activation-aware scales, calibrated"
    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    calibrated: ClassVar[bool] = True
    writes_checkpoint: ClassVar[bool] = True

    bits: Literal[4, 8] = Field(4, description="Bits per weight; 4 is what GPU kernels and other tools read.")
    group_size: int = Field(
        64, ge=8, description="Weights that share a scale; must divide every layer's width."
    )
    symmetric: bool = Field(False, description="Grid symmetric around zero.")
    search_tokens: int = Field(
        1024,
        ge=128,
        description="Calibration tokens the scale search looks at; its time is proportional to them.",
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return f"awq-{self.bits}"

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return float(self.bits)

    @property
    def grid(self) -> Grid:
        """See Quantizer.grid."""
        return Grid(self.bits, self.group_size, self.symmetric)

    @property
    def kernel_dtypes(self) -> tuple[str, ...]:
        """See Quantizer.kernel_dtypes. bfloat16 has no bits left for what 8-bit scales resolve."""
        return ("float16",) if self.bits == 8 else ("bfloat16", "float16")

    @property
    def rescales(self) -> bool:
        """See Quantizer.rescales."""
        return True

    def calibration_sequences(self, sequences: int, length: int) -> int:
        """See Quantizer.calibration_sequences."""
        return min(sequences, max(1, self.search_tokens // length))

    def calibration_dtype(self, device: str, sweep: str) -> str:
        """See Quantizer.calibration_dtype."""
        return calibration_dtype(device, sweep, self.bits)

    def check(self, architecture: Architecture) -> None:
        """See Quantizer.check."""
        check_group_size(self.group_size, architecture)

    def making_bytes(self, shape: Shape, tokens: int, device: Device) -> int:
        """See Quantizer.making_bytes. Packing makes a 16-bit copy."""
        return solver_bytes(shape, tokens, device, self.bits, in_float32=7.5, in_16_bits=4.5)

    def making_seconds(self, shape: Shape, tokens: int, device: Device) -> float:
        """See Quantizer.making_seconds.

        20 candidates for the scales, and what takes as long as twelve passes in float32 beside them.
        """
        once = tokens * 2 * shape.linear_parameters
        return (
            START_SECONDS
            + 20 * once / calibration_flops(device, self.bits)
            + 12 * once / device.float32_flops
        )

    def quantize(
        self,
        parent: Path,
        calibration: Sequence[Sequence[int]],
        out: Path,
        device: str,
        dtype: str,
        observe: Callable[[Any], None],
    ) -> None:
        """See Quantizer.quantize. Packed in float16."""
        from quantizers.gptqmodel_support import import_gptqmodel, logs_discarded

        gptqmodel = import_gptqmodel()
        import torch
        from gptqmodel.quantization import FORMAT, METHOD

        settings = gptqmodel.QuantizeConfig(
            quant_method=METHOD.AWQ,
            format=FORMAT.GEMM,
            bits=self.bits,
            group_size=self.group_size,
            sym=self.symmetric,
            offload_to_disk=False,
            device=device,
        )
        model = gptqmodel.GPTQModel.load(str(parent), settings, dtype=getattr(torch, dtype))
        examples = [{"input_ids": list(s), "attention_mask": [1] * len(s)} for s in calibration]
        backend = gptqmodel.BACKEND.AWQ_TORCH if device == "cpu" else gptqmodel.BACKEND.AUTO
        with logs_discarded(), fast_search():
            model.quantize(examples, batch_size=8, backend=backend)
        observe(model.model)
        model.save(str(out))

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        return load_awq(source, self.bits, self.group_size, dtype, device)


def load_awq(source: Path, bits: int, group_size: int, dtype: str, device: str) -> Any:
    """Load an AWQ checkpoint (GEMM layout) on torch_awq: `auto` picks kernels whose gradients are wrong."""
    from quantizers.gptqmodel_support import import_gptqmodel

    import_gptqmodel()
    from transformers import AwqConfig

    settings = AwqConfig(bits=bits, group_size=group_size, backend="torch_awq")
    # gptqmodel would load bfloat16 on its own, which makes 8 bits worse than 4: always say the type.
    return load_dense(source, dtype, device, quantization_config=settings)


@contextmanager
def fast_search() -> Iterator[None]:
    """Make gptqmodel 7.6's AWQ search right in float32 on a CPU and its clipping search fast.

    Three methods of its AWQProcessor are replaced while the block runs:

    * `_compute_best_clip` multiplies element by element and takes 90 % of the time on a CPU. With
      G = X^T X / n of a group's inputs, the mean squared output error of a changed weight row d is
      d G d^T: the same numbers from matrix products over 64 x 64 matrices.
    * `_compute_best_scale` keeps its copy of the weights with `.to(float32).cpu().contiguous()`, which
      in float32 on a CPU is no copy: every candidate then starts from the last one's rounded weights,
      and the checkpoint is noise.
    * `pack_module` wants float16 weights.
    """
    from gptqmodel.looper.awq_processor import AWQProcessor

    pack = AWQProcessor.pack_module

    def pack_in_float16(self: Any, module: Any) -> None:
        module.weight.data = module.weight.data.half()
        pack(self, module)

    with (
        patch.object(AWQProcessor, "_compute_best_clip", best_clip),
        patch.object(AWQProcessor, "_compute_best_scale", best_scale),
        patch.object(AWQProcessor, "pack_module", pack_in_float16),
    ):
        yield


def best_clip(
    self: Any, w: Any, input_feat: Any, n_grid: int = 20, max_shrink: float = 0.5, n_sample_token: int = 512
) -> Any:
    """Return the clipping bound [rows, groups, 1] with the least output error, per row and group.

    Args:
        self: the AWQProcessor, for its rounding.
        w: weight [rows, width].
        input_feat: inputs [..., width].
        n_grid: bounds tried are max * (1 - i / n_grid).
        max_shrink: largest share of the bound taken away.
        n_sample_token: at most about this many inputs are used.
    """
    import torch

    with torch.inference_mode():
        size = self.qcfg.group_size if self.qcfg.group_size > 0 else w.shape[1]
        x = input_feat.reshape(-1, w.shape[1])
        x = x[:: max(1, x.shape[0] // n_sample_token)].to(w.device, torch.float32)
        grouped = x.reshape(x.shape[0], -1, size).transpose(0, 1)
        gram = grouped.transpose(1, 2) @ grouped / x.shape[0]
        rows = w.reshape(w.shape[0], 1, -1, size)
        largest = rows.abs().amax(-1, keepdim=True)
        best, least = largest.clone(), torch.full_like(largest, 1e9, dtype=torch.float32)
        clipped, rounded = torch.empty_like(rows), torch.empty_like(rows)
        for i in range(int(max_shrink * n_grid)):
            bound = largest * (1 - i / n_grid)
            torch.clamp(rows, -bound, bound, out=clipped)
            self._pseudo_quantize_tensor_into(clipped, rounded)
            change = (rounded - rows).float().squeeze(1).transpose(0, 1)
            error = ((change @ gram) * change).sum(-1).transpose(0, 1).reshape(least.shape)
            better = error < least
            least[better], best[better] = error[better], bound[better]
        return best.squeeze(1)


def best_scale(
    self: Any,
    x: Any,
    w_mean: Any,
    x_mean: Any,
    module2inspect: Any,
    linears2scale: Sequence[Any],
    fp16_output: Any,
    kwargs: Any = None,
) -> tuple[Any, float]:
    """Return the channel scales with the least output error, and that mean squared error.

    s = x_mean^r / w_mean^(1 - r) for r in 0, 0.05 ... 0.95, normalised by sqrt(max * min), as in
    AutoAWQ; the arguments are those of the method it replaces.
    """
    import torch

    with torch.inference_mode():
        original = [layer.weight.detach().clone() for layer in linears2scale]
        device = original[0].device
        x_mean, w_mean = x_mean.reshape(-1).float().to(device), w_mean.reshape(-1).float().to(device)
        hint = getattr(self._scale_context, "prev_scale", None)
        w_mean = w_mean if hint is None else w_mean * float(hint)
        best, least = None, float("inf")
        for step in range(20):
            ratio = step / 20
            scales = (x_mean.pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
            scales = scales / (scales.max() * scales.min()).sqrt()
            scales[~torch.isfinite(scales)] = 1
            for layer, weight in zip(linears2scale, original, strict=True):
                layer.weight.data.copy_(weight * scales)
                self._pseudo_quantize_tensor_into(layer.weight.data, layer.weight.data)
                layer.weight.data.div_(scales)
            loss, count = 0.0, 0
            for expected, found in zip(
                self._iter_reference_output_chunks(x, fp16_output),
                self._iter_module_forward_outputs(x, module2inspect, kwargs or {}),
                strict=True,
            ):
                loss += (expected.to(found.device) - found).float().pow(2).sum().item()
                count += found.numel()
            if loss / max(count, 1) < least:
                best, least = scales.clone(), loss / max(count, 1)
        for layer, weight in zip(linears2scale, original, strict=True):
            layer.weight.data.copy_(weight)
    if best is None:
        raise ValueError("no AWQ scale gives a finite output: the parent's activations are not finite")
    return best.cpu(), least
