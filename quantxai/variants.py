"""Variants: one model's weights under one quantizer, resolved, prepared once and cached."""

from __future__ import annotations

import json
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from quantxai import machine, registry
from quantxai.checkpoints import load_dense, load_tokenizer, quantized_layers, write_twin
from quantxai.config import Calibration, SweepConfig, VariantConfig
from quantxai.datasets import calibration_texts, load_dataset
from quantxai.errors import ConfigError, MissingExtra, ModelError
from quantxai.files import safe_name, write_atomically
from quantxai.methods import Quantizer
from quantxai.models import ModelSource, cache_directory, require_space
from quantxai.records import digest

__all__ = ["Variant", "load_variant", "prepare", "resolve_variants"]

PERPLEXITY_TOKENS = 2048
PROBE = "The capital of France is Paris, and the capital of Japan is"


@dataclass(frozen=True)
class Variant:
    """One resolved variant.

    Attributes:
        config: what was asked for.
        quantizer: the method with its options.
        model: the parent.
        calibration: the calibration sample's size.
        dtype: compute type.
        device: cpu or cuda.
        execution: dequantized or kernel.
    """

    config: VariantConfig
    quantizer: Quantizer
    model: ModelSource
    calibration: Calibration
    dtype: str
    device: str
    execution: str

    @property
    def name(self) -> str:
        """Unique name within the sweep."""
        return self.config.name

    @property
    def weights_digest(self) -> str:
        """SHA-256 of everything the quantized weights depend on."""
        identity: list[Any] = [self.model.digest, self.quantizer.digest()]
        if self.quantizer.calibrated:
            seed = self.config.seed
            identity += [self.calibration.model_dump(), seed, digest(calibration_texts(seed))]
        return digest(identity)

    @property
    def digest(self) -> str:
        """SHA-256 of everything the variant's outputs depend on."""
        return digest([self.weights_digest, self.dtype, self.device, self.execution])

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
    def receipt(self) -> Path:
        """Where the receipt of this way of running it is cached."""
        return self.folder / f"receipt-{self.execution}-{self.dtype}-{self.device}.json"

    @property
    def prepared(self) -> bool:
        """Whether a run can load it at once."""
        return self.receipt.is_file() and (self.twin is None or self.twin.is_dir())


def resolve_variants(config: SweepConfig, model: ModelSource) -> list[Variant]:
    """Resolve every variant's compute type and execution.

    Raises:
        ConfigError: an execution mode that the method does not have.
    """
    device = machine.default_device() if config.model.device == "auto" else config.model.device
    dtype = machine.default_dtype(device) if config.model.dtype == "auto" else config.model.dtype
    return [
        _resolve(entry, model, config.calibration, getattr(entry.method(), "dtype", "auto"), dtype, device)
        for entry in config.variants
    ]


def _resolve(
    entry: VariantConfig,
    model: ModelSource,
    calibration: Calibration,
    own_dtype: str,
    dtype: str,
    device: str,
) -> Variant:
    quantizer = entry.method()
    dtype = dtype if own_dtype == "auto" else own_dtype
    execution = entry.execution
    if execution == "auto":
        on_kernel = device != "cpu" and dtype in quantizer.kernel_dtypes
        execution = "dequantized" if quantizer.has_twin and not on_kernel else "kernel"
    if execution == "dequantized" and not quantizer.has_twin:
        raise ConfigError(
            f"variant '{entry.name}': execution = \"dequantized\" is not possible: "
            f"{'its weights are dense already' if quantizer.method == 'full' else 'it also quantizes activations'}. "
            'Leave execution out or use "kernel".'
        )
    if execution == "kernel" and dtype not in quantizer.kernel_dtypes:
        raise ConfigError(
            f"variant '{entry.name}': the kernel of {quantizer.method} computes in "
            f"{' or '.join(quantizer.kernel_dtypes)}, not in {dtype}. Set model.dtype, or execution = "
            '"dequantized".'
        )
    return Variant(entry, quantizer, model, calibration, dtype, device, execution)


def check_packages(variants: list[Variant]) -> None:
    """Raise MissingExtra where a package that a variant needs is not installed."""
    for name in machine.has_packages(("torch", "transformers")):
        raise MissingExtra(name, "models", "running a model")
    for variant in variants:
        for name in machine.has_packages(variant.quantizer.packages):
            raise MissingExtra(name, "models", f"the quantizer '{variant.quantizer.method}'")


def load_variant(variant: Variant, parent: Path) -> Any:
    """Load a prepared variant as a transformers model."""
    if variant.twin is not None:
        return load_dense(variant.twin, variant.dtype, variant.device)
    return variant.quantizer.load(variant.checkpoint or parent, variant.dtype, variant.device)


def prepare(variant: Variant, parent: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Make the variant loadable: quantize, write its twin, measure, and return its receipt.

    What is cached is reused. Everything is made beside its place and moved there complete.

    Args:
        variant: the variant.
        parent: directory of the parent checkpoint.
        report: called with one line per step.

    Raises:
        OutOfSpace: the cache cannot hold it.
        ModelError: the variant cannot be made.
    """
    variant.folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(variant.folder / ".lock"):
        if variant.prepared:
            return {**json.loads(variant.receipt.read_text()), "variant": variant.name}
        for leftover in variant.folder.glob(f"{_MAKING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        size = sum(f.stat().st_size for f in parent.glob("*.safetensors"))
        require_space(variant.folder, 4 * size if variant.twin else size, f"variant '{variant.name}'")
        made: dict[str, Any] = {}
        if variant.checkpoint is not None:
            made = _quantize(variant, parent, report)
        if variant.twin is not None and not variant.twin.is_dir():
            report(f"{variant.name}: writing its dequantized twin")
            _write_twin(variant, parent)
        receipt = _measure(variant, parent, made, report)
        _write_json(variant.receipt, receipt)
        return receipt


_MAKING = ".making-"


def _write_json(file: Path, value: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(value, indent=1).encode())


@contextmanager
def _into(target: Path) -> Iterator[Path]:
    """Give a scratch directory that becomes `target` when the block ends well."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_MAKING) as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        yield made
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def calibration_tokens(variant: Variant, parent: Path) -> list[list[int]]:
    """Return the variant's calibration sample: token ids [sequences, length].

    Raises:
        ConfigError: the built-in calibration text is shorter than what was asked for.
    """
    tokenizer = load_tokenizer(parent)
    ids = list(tokenizer("\n\n".join(calibration_texts(variant.config.seed))).input_ids)
    sequences, length = variant.calibration.sequences, variant.calibration.length
    available = len(ids) // length
    if available == 0:
        raise ConfigError(f"calibration.length = {length}: the calibration text has only {len(ids)} tokens")
    count = variant.quantizer.calibration_sequences(min(sequences, available), length)
    return [ids[i * length : (i + 1) * length] for i in range(count)]


def _quantize(variant: Variant, parent: Path, report: Callable[[str], None]) -> dict[str, Any]:
    assert variant.checkpoint is not None
    facts = variant.folder / "quantization.json"
    if variant.checkpoint.is_dir() and facts.is_file():
        found: dict[str, Any] = json.loads(facts.read_text())
        return found
    calibration = calibration_tokens(variant, parent)
    tokens = sum(map(len, calibration))
    report(f"{variant.name}: quantizing with {tokens} calibration tokens")
    start = time.perf_counter()
    with _into(variant.checkpoint) as made:
        variant.quantizer.quantize(parent, calibration, made, variant.device)
        load_tokenizer(parent).save_pretrained(made)
    result = {
        "quantization_seconds": round(time.perf_counter() - start, 1),
        "calibration_digest": digest(calibration),
        "calibration_tokens": tokens,
        "calibration_seed": variant.config.seed,
        "quantization_peak_memory_mb": _peak_memory_mb(),
    }
    _write_json(facts, result)
    return result


def _write_twin(variant: Variant, parent: Path) -> None:
    """Write the twin and, beside its weights, how the kernel it stands for compares with it."""
    import torch

    assert variant.twin is not None
    kernel_dtype = variant.dtype if variant.dtype in variant.quantizer.kernel_dtypes else "float16"
    model = variant.quantizer.load(variant.checkpoint or parent, kernel_dtype, variant.device)
    layers = quantized_layers(model)
    if not layers:
        raise ModelError(f"variant '{variant.name}': the quantizer left no layer quantized")
    names = sorted({type(m).__name__ for m in layers.values()})
    ids = torch.tensor([load_tokenizer(parent)(PROBE).input_ids], device=variant.device)
    with torch.inference_mode():
        kernel_logits = model(ids).logits.float()
    quantized = sum(m.in_features * m.out_features for m in layers.values())
    with _into(variant.twin) as made:
        write_twin(model, made, variant.dtype)
        del model
        twin = load_dense(made, variant.dtype, variant.device)
        with torch.inference_mode():
            difference = (twin(ids).logits.float() - kernel_logits).abs().max().item()
        facts = {
            "kernel": ", ".join(names),
            "kernel_dtype": kernel_dtype,
            "quantized_layers": len(layers),
            "quantized_share": round(quantized / sum(p.numel() for p in twin.parameters()), 4),
            "largest_logit_difference_to_kernel": difference if math.isfinite(difference) else None,
        }
        _write_json(made / _KERNEL, facts)


_KERNEL = "kernel.json"


def _kernel_facts(variant: Variant, model: Any) -> dict[str, Any]:
    """Return what computes the variant's quantized layers."""
    if variant.twin is not None:
        found: dict[str, Any] = json.loads((variant.twin / _KERNEL).read_text())
        return found
    layers = quantized_layers(model)
    return {
        "kernel": ", ".join(sorted({type(m).__name__ for m in layers.values()})) or "Linear",
        "quantized_layers": len(layers),
    }


def _measure(
    variant: Variant, parent: Path, made: dict[str, Any], report: Callable[[str], None]
) -> dict[str, Any]:
    report(f"{variant.name}: measuring its perplexity")
    model = load_variant(variant, parent)
    quantizer = variant.quantizer
    receipt: dict[str, Any] = {
        "variant": variant.name,
        "method": quantizer.method,
        "options": quantizer.model_dump(mode="json"),
        "weight_bits": quantizer.weight_bits or {"float32": 32.0}.get(variant.dtype, 16.0),
        "bits_per_weight": quantizer.bits_per_weight,
        "execution": variant.execution,
        "dtype": variant.dtype,
        "device": variant.device,
        "weights_digest": variant.weights_digest,
        **_kernel_facts(variant, model),
        **made,
        "checkpoint_bytes": _size(variant.checkpoint or variant.twin or parent),
        "perplexity": perplexity(model, load_tokenizer(parent)),
        "perplexity_tokens": PERPLEXITY_TOKENS,
        "versions": machine.versions(),
        "warnings": [],
    }
    del model
    if quantizer.calibrated:
        _compare_with_rounding(variant, parent, receipt, report)
    if not math.isfinite(receipt["perplexity"]):
        receipt["perplexity"] = None
        receipt["warnings"].append("the perplexity is not finite: the variant is broken")
    receipt["peak_memory_mb"] = _peak_memory_mb()
    return receipt


def _compare_with_rounding(
    variant: Variant, parent: Path, receipt: dict[str, Any], report: Callable[[str], None]
) -> None:
    """Say in the receipt whether calibration was worth it: round-to-nearest on the same grid."""
    grid = variant.quantizer.grid
    assert grid is not None
    report(f"{variant.name}: measuring round-to-nearest on the same grid, for comparison")
    control = registry.method("quantizer", "rtn").model_validate(grid._asdict())
    model = control.load(parent, variant.dtype, variant.device)
    plain = perplexity(model, load_tokenizer(parent))
    receipt["rtn_same_grid_perplexity"] = plain if math.isfinite(plain) else None
    if not receipt["perplexity"] < plain:
        receipt["warnings"].append(
            f"{variant.quantizer.method} (perplexity {receipt['perplexity']:.1f}) does not beat round-to-nearest "
            f"on the same grid ({plain:.1f}): its calibration did not help"
        )


def perplexity(model: Any, tokenizer: Any, window: int = 512) -> float:
    """Return exp(mean negative log-likelihood in nats per token) of the built-in news texts.

    PERPLEXITY_TOKENS tokens in windows of `window`; the first token of each window is not scored.
    """
    import torch

    text = "\n\n".join(item.text for item in load_dataset("news").items)
    ids = tokenizer(text).input_ids[:PERPLEXITY_TOKENS]
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids), window):
            part = torch.tensor(ids[start : start + window], device=next(model.parameters()).device)
            if len(part) < 2:
                continue
            logits = model(part[None]).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum").item()
            count += len(part) - 1
    mean = total / count
    return math.exp(mean) if mean < 700 else math.inf


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*.safetensors"))


def _peak_memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
