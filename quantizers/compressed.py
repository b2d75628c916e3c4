"""compressed-tensors: the schemes that vLLM serves, rounded to nearest.

4-bit block floating point: Rouhani et al. 2023, "Microscaling Data Formats for Deep Learning", arXiv
2310.10537 (MXFP4); NVFP4 has blocks of 16 under a float8 scale. The 8-bit schemes also round the
inputs of every layer, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from quantxai.checkpoints import load_dense, stored_dtype
from quantxai.lm import Architecture
from quantxai.methods import Quantizer, check_group_size

if TYPE_CHECKING:
    from quantxai.devices import Device
    from quantxai.shapes import Shape

__all__ = ["CompressedTensors", "load_compressed"]

ELEMENT_SECONDS = 7.5e-8
"""Rounding and packing one weight, measured on one thread of a processor."""


class Scheme(NamedTuple):
    """One of the package's preset schemes.

    Attributes:
        bits: of a weight.
        group_size: weights that share a scale; null for one scale a row.
        scale_bits: of a scale.
        weight_only: whether layers' inputs stay as they are.
    """

    bits: int
    group_size: int | None
    scale_bits: int
    weight_only: bool


SCHEMES = {
    "NVFP4A16": Scheme(4, 16, 8, True),
    "MXFP4A16": Scheme(4, 32, 8, True),
    "FP8_DYNAMIC": Scheme(8, None, 16, False),
    "W8A8": Scheme(8, None, 16, False),
}


class CompressedTensors(Quantizer):
    """Nearest point of a scheme's grid, no calibration, in the layout that vLLM and transformers read."""

    method: ClassVar[str] = "compressed-tensors"
    summary: ClassVar[str] = (
        "compressed-tensors schemes as vLLM serves them: nvfp4, mxfp4, fp8 and int8 dynamic"
    )
    packages: ClassVar[tuple[str, ...]] = ("compressed_tensors",)
    writes_checkpoint: ClassVar[bool] = True

    scheme: Literal["NVFP4A16", "MXFP4A16", "FP8_DYNAMIC", "W8A8"] = Field(
        "NVFP4A16", description="The preset scheme; the last two also round activations to 8 bits."
    )

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return self.scheme.lower().replace("_", "-")

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return float(SCHEMES[self.scheme].bits)

    @property
    def bits_per_weight(self) -> float | None:
        """See Quantizer.bits_per_weight. Null for one scale a row, which depends on the layer."""
        scheme = SCHEMES[self.scheme]
        return scheme.bits + scheme.scale_bits / scheme.group_size if scheme.group_size else None

    def layer_bits(self, width: int) -> float:
        """See Quantizer.layer_bits."""
        scheme = SCHEMES[self.scheme]
        return scheme.bits + scheme.scale_bits / (scheme.group_size or width)

    def kernel_bits(self, width: int, number_bits: int) -> float:
        """See Quantizer.kernel_bits. Weights are unpacked when they are loaded, and scales stay."""
        scheme = SCHEMES[self.scheme]
        return number_bits + 2 * scheme.scale_bits / (scheme.group_size or width)

    def making_seconds(self, shape: Shape, tokens: int, device: Device) -> float:
        """See Quantizer.making_seconds. Rounded and packed element by element."""
        return ELEMENT_SECONDS * shape.linear_parameters

    @property
    def has_twin(self) -> bool:
        """No dense matrix reproduces a scheme that also rounds activations."""
        return SCHEMES[self.scheme].weight_only

    def check(self, architecture: Architecture) -> None:
        """See Quantizer.check."""
        size = SCHEMES[self.scheme].group_size
        if size is not None:
            check_group_size(size, architecture)

    def quantize(
        self,
        parent: Path,
        calibration: Sequence[Sequence[int]],
        out: Path,
        device: str,
        dtype: str,
        observe: Callable[[Any], None],
    ) -> None:
        """See Quantizer.quantize. In the parent's own float type."""
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

        model = load_dense(parent, stored_dtype(parent), device)
        groups = {"weights": preset(self.scheme)}
        head = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
        apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=head))
        for module in model.modules():
            if getattr(module, "quantization_scheme", None) is not None:
                _set_scales(module)
        observe(model)
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(out)
        compressor.update_config(str(out))

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        return load_compressed(source, dtype, device)


def preset(scheme: str) -> Any:
    """Return the package's own settings for a scheme, on every torch.nn.Linear."""
    from compressed_tensors.quantization import preset_name_to_scheme

    return preset_name_to_scheme(scheme, ["Linear"])


def _set_scales(module: Any) -> None:
    """Set a layer's scales by the largest weight of each group, as the formats define them."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    settings, weight = module.quantization_scheme.weights, module.weight.detach()
    groups = weight.reshape(weight.shape[0], -1, settings.group_size or weight.shape[1])
    overall = None
    if hasattr(module, "weight_global_scale"):
        overall = generate_gparam(weight.min(), weight.max())
        module.weight_global_scale.data.copy_(overall)
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), settings, overall)
    module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
    module.weight_zero_point.data.copy_(zero_point.reshape(module.weight_zero_point.shape))


def load_compressed(source: Path, dtype: str, device: str) -> Any:
    """Load a compressed-tensors checkpoint: weights unpacked once, activations rounded where its scheme does.

    transformers' own `dequantize = True` would leave out the rounding of activations without a word.
    """
    import torch
    from compressed_tensors.compressors import decompress_module

    model = load_dense(source, dtype, device)
    model.hf_quantizer.compressor.remove_decompression_hook(model)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            decompress_module(module)
            # The float4 formats unpack to bfloat16 whatever the model's type is.
            module.weight = torch.nn.Parameter(module.weight.detach().to(model.dtype), requires_grad=False)
    return model
