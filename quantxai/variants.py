"""Variants: one model's weights under one quantizer, what identifies them and where they are cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantxai import machine, receipts
from quantxai.config import Calibration, SweepConfig, VariantConfig
from quantxai.datasets import calibration_texts
from quantxai.errors import ConfigError, MissingExtra, nearest
from quantxai.files import safe_name
from quantxai.methods import MatchedControl, Quantizer, Unquantized
from quantxai.models import ModelSource, cache_directory
from quantxai.records import digest

__all__ = ["Variant", "check_packages", "resolve_variants"]

MADE_VERSION = 2
"""Raised when more is written about how a checkpoint was made, so that older ones are made again."""


@dataclass(frozen=True)
class Variant:
    """One resolved variant.

    Attributes:
        config: what was asked for.
        quantizer: the method with its options.
        model: the parent.
        calibration: size and source of the calibration sample.
        dtype: compute type.
        device: cpu or cuda.
        execution: dequantized or kernel.
        parent_dtype: compute type of the parent it is measured against.
        of: the variant a control is matched to.
        engine: the library that runs it.
    """

    config: VariantConfig
    quantizer: Quantizer
    model: ModelSource
    calibration: Calibration
    dtype: str
    device: str
    execution: str
    parent_dtype: str
    of: Variant | None = None
    engine: str = "transformers"

    @property
    def name(self) -> str:
        """Unique name within the sweep."""
        return self.config.name

    @property
    def calibration_dtype(self) -> str:
        """Float type the calibration text is read in."""
        return self.quantizer.calibration_dtype(self.device, self.parent_dtype)

    @property
    def weights_digest(self) -> str:
        """SHA-256 of everything the quantized weights depend on."""
        identity: list[Any] = [self.model.digest, self.quantizer.digest()]
        if self.quantizer.calibrated:
            seed = self.config.seed
            size = self.calibration.model_dump(exclude={"path"})
            identity += [size, seed, digest(calibration_texts(seed, self.calibration.path))]
            identity += [self.device, self.calibration_dtype]
        if self.of is not None:
            identity += [self.of.weights_digest, self.config.seed]
        return digest(identity)

    @property
    def digest(self) -> str:
        """SHA-256 of everything the variant's outputs depend on."""
        return digest([self.weights_digest, self.dtype, self.device, self.execution, self.engine])

    @property
    def folder(self) -> Path:
        """Where its checkpoint, its twin and its receipts are cached."""
        # By the method's own label, so that one set of weights under two names is made once.
        name = f"{self.model.name}--{self.quantizer.label}--{self.weights_digest[:12]}"
        return cache_directory() / "checkpoints" / safe_name(name)

    @property
    def checkpoint(self) -> Path | None:
        """The quantized checkpoint; null for methods that quantize when they load."""
        return self.folder / "checkpoint" if self.quantizer.writes_checkpoint else None

    @property
    def twin(self) -> Path | None:
        """The dequantized twin; null where the variant runs on its kernel."""
        return self.folder / f"twin-{self.dtype}" if self.execution == "dequantized" else None

    @property
    def on_disk(self) -> bool:
        """Whether what it runs is a checkpoint as it lies there; others are quantized when they are loaded."""
        made_elsewhere = type(self.quantizer).own_source is not Quantizer.own_source
        unquantized = isinstance(self.quantizer, Unquantized)
        return self.twin is not None or self.checkpoint is not None or made_elsewhere or unquantized

    @property
    def made(self) -> Path:
        """How the checkpoint was made; written after it."""
        return self.folder / f"quantization-{MADE_VERSION}.json"

    @property
    def receipt(self) -> Path:
        """Where the receipt of this way of running it is cached."""
        beside = "" if self.dtype == self.parent_dtype else f"-beside-{self.parent_dtype}"
        return (
            self.folder
            / f"receipt-{receipts.VERSION}-{self.execution}-{self.dtype}-{self.device}{beside}.json"
        )

    def source(self, parent: Path) -> Path:
        """Return what its kernel is loaded from, `parent` being the parent checkpoint's directory."""
        return self.quantizer.own_source or self.checkpoint or parent

    @property
    def prepared(self) -> bool:
        """Whether a run can load it at once."""
        folders = [folder for folder in (self.twin, self.checkpoint) if folder is not None]
        return self.receipt.is_file() and all(folder.is_dir() for folder in folders)


def resolve_variants(config: SweepConfig, model: ModelSource) -> list[Variant]:
    """Resolve every variant's compute type and execution.

    Raises:
        ConfigError: an execution mode that the method does not have.
    """
    device = machine.default_device() if config.model.device == "auto" else config.model.device
    dtype = machine.default_dtype(device) if config.model.dtype == "auto" else config.model.dtype
    found = {e.name: _resolve(e, model, config.calibration, dtype, device) for e in config.variants}
    return [replace(_matched(variant, found), engine=config.engine) for variant in found.values()]


def _matched(variant: Variant, others: Mapping[str, Variant]) -> Variant:
    """Return a matched control with the variant it is matched to; any other as it is."""
    if not isinstance(variant.quantizer, MatchedControl):
        return variant
    fitting = [name for name, other in others.items() if other.quantizer.weight_bits is not None]
    name = variant.quantizer.of
    if name not in fitting:
        raise ConfigError(
            f"variant '{variant.name}': of = \"{name}\" is no quantized variant of this sweep."
            f"{nearest(name, fitting)} Allowed: {', '.join(fitting) or 'none'}."
        )
    return replace(variant, of=others[name])


def _resolve(
    entry: VariantConfig,
    model: ModelSource,
    calibration: Calibration,
    dtype: str,
    device: str,
) -> Variant:
    quantizer = entry.method()
    parent_dtype, dtype = dtype, quantizer.compute_dtype(dtype)
    execution = entry.execution
    if execution == "auto":
        on_kernel = device != "cpu" and dtype in quantizer.kernel_dtypes
        execution = "dequantized" if quantizer.has_twin and not on_kernel else "kernel"
    if execution == "dequantized" and not quantizer.has_twin:
        raise ConfigError(
            f"variant '{entry.name}': execution = \"dequantized\" is not possible: "
            f"{'its weights are dense already' if quantizer.weight_bits is None else 'it also quantizes activations'}. "
            'Leave execution out or use "kernel".'
        )
    if execution == "kernel" and dtype not in quantizer.kernel_dtypes:
        raise ConfigError(
            f"variant '{entry.name}': the kernel of {quantizer.method} computes in "
            f"{' or '.join(quantizer.kernel_dtypes)}, not in {dtype}. Set model.dtype, or execution = "
            '"dequantized".'
        )
    return Variant(entry, quantizer, model, calibration, dtype, device, execution, parent_dtype)


def check_packages(variants: list[Variant]) -> None:
    """Raise MissingExtra where a package that a variant needs is not installed."""
    for name in machine.has_packages(("torch", "transformers")):
        raise MissingExtra(name, "models", "running a model")
    if any(variant.engine == "vllm" for variant in variants) and machine.has_packages(("vllm",)):
        raise MissingExtra("vllm", "vllm", 'engine = "vllm"')
    for variant in variants:
        for name in machine.has_packages(variant.quantizer.packages):
            raise MissingExtra(name, "models", f"the quantizer '{variant.quantizer.method}'")
