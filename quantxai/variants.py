"""Variants: one model's weights under one quantizer, resolved, prepared once and cached."""

from __future__ import annotations

import json
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from quantxai import machine, receipts, registry
from quantxai.checkpoints import dense_copy, load_dense, load_tokenizer, quantized_layers
from quantxai.config import Calibration, SweepConfig, VariantConfig
from quantxai.datasets import calibration_texts, load_dataset
from quantxai.errors import ConfigError, MissingExtra, ModelError, nearest
from quantxai.files import safe_name, write_atomically
from quantxai.methods import MatchedControl, Quantizer
from quantxai.models import ModelSource, cache_directory, require_space
from quantxai.receipts import Receipt
from quantxai.records import digest

__all__ = ["Variant", "load_variant", "prepare", "resolve_variants"]


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
        parent_dtype: compute type of the parent it is measured against.
        of: the variant a control is matched to.
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
        if self.of is not None:
            identity += [self.of.weights_digest, self.config.seed]
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
    def made(self) -> Path:
        """How the checkpoint was made; written after it."""
        return self.folder / "quantization.json"

    @property
    def receipt(self) -> Path:
        """Where the receipt of this way of running it is cached."""
        beside = "" if self.dtype == self.parent_dtype else f"-beside-{self.parent_dtype}"
        return (
            self.folder
            / f"receipt-{receipts.VERSION}-{self.execution}-{self.dtype}-{self.device}{beside}.json"
        )

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
    found = {e.name: _resolve(e, model, config.calibration, dtype, device) for e in config.variants}
    return [_matched(variant, found) for variant in found.values()]


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
    for variant in variants:
        for name in machine.has_packages(variant.quantizer.packages):
            raise MissingExtra(name, "models", f"the quantizer '{variant.quantizer.method}'")


def _source(variant: Variant, parent: Path) -> Path:
    """What the variant's kernel is loaded from."""
    return variant.quantizer.own_source or variant.checkpoint or parent


def load_variant(variant: Variant, parent: Path) -> Any:
    """Load a prepared variant as a transformers model."""
    if variant.twin is not None:
        return load_dense(variant.twin, variant.dtype, variant.device)
    return variant.quantizer.load(_source(variant, parent), variant.dtype, variant.device)


Apart = Callable[..., Any]
"""apart(function, *arguments) returns function(*arguments), perhaps computed in a process of its own."""


def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def prepare(
    variant: Variant, parent: Path, report: Callable[[str], None], apart: Apart = _here
) -> dict[str, Any]:
    """Make the variant loadable: quantize, test, write its twin, measure, and return its receipt.

    What is cached is reused. Everything is made beside its place and moved there complete.

    Args:
        variant: the variant.
        parent: directory of the parent checkpoint.
        report: called with one line per step.
        apart: runs the steps; where it runs each in a process of its own, what quantizing leaves in
            memory is gone before anything else is loaded.

    Raises:
        OutOfSpace: the cache cannot hold it.
        ModelError: the variant cannot be made, or fails a self-test.
    """
    if variant.of is not None:
        prepare(variant.of, parent, report, apart)
    variant.folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(variant.folder / ".lock"):
        if variant.prepared:
            return {**json.loads(variant.receipt.read_text()), "variant": variant.name}
        for leftover in variant.folder.glob(f"{_MAKING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        size = sum(f.stat().st_size for f in parent.glob("*.safetensors"))
        require_space(variant.folder, 4 * size if variant.twin else size, f"variant '{variant.name}'")
        if variant.checkpoint is not None and not variant.made.is_file():
            apart(_make, variant, parent, report)
        facts, logits = json.loads(variant.made.read_text()) if variant.made.is_file() else {}, None
        if variant.quantizer.weight_bits is not None:
            found, logits = apart(_inspect, variant, parent, report)
            facts |= found
        measures, warnings = apart(_measure, variant, parent, logits, report)
        if variant.quantizer.calibrated:
            rounded = apart(_round_on_same_grid, variant, parent, report)
            facts["rtn_same_grid_perplexity"] = rounded
            warnings += _unhelpful(variant, measures["perplexity"], rounded)
        receipt = _receipt(variant, parent, {**facts, **measures}, warnings).model_dump(mode="json")
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


def _make(variant: Variant, parent: Path, report: Callable[[str], None]) -> None:
    """Write the variant's checkpoint, load it again and see that it computes the same."""
    assert variant.checkpoint is not None
    quantizer = variant.quantizer
    start = time.perf_counter()
    facts: dict[str, Any] = {}
    with _into(variant.checkpoint) as made:
        if isinstance(quantizer, MatchedControl):
            assert variant.of is not None
            report(f"{variant.name}: disturbing the parent as much as {variant.of.name} does")
            layers = json.loads(variant.of.receipt.read_text())["layers"]
            norms = {layer["name"]: layer["error_norm"] for layer in layers}
            quantizer.disturb(parent, norms, made, variant.config.seed)
            load_tokenizer(parent).save_pretrained(made)
        else:
            calibration = calibration_tokens(variant, parent)
            tokens = sum(map(len, calibration))
            report(f"{variant.name}: quantizing with {tokens} calibration tokens")
            ids, written = _probe_ids(parent, variant.device), dict[str, Any]()

            def observe(live: Any) -> None:
                written[str(live.dtype)] = receipts.embedding_gradient(live, ids)[0]

            quantizer.quantize(parent, calibration, made, variant.device, observe)
            load_tokenizer(parent).save_pretrained(made)
            facts = {
                "calibration_digest": digest(calibration),
                "calibration_tokens": tokens,
                "calibration_seed": variant.config.seed,
            }
            for dtype, logits in written.items():
                read = quantizer.load(
                    made, _kernel_dtype(quantizer, dtype.removeprefix("torch.")), variant.device
                )
                receipts.check_same_logits(
                    logits, receipts.embedding_gradient(read, ids)[0], f"variant '{variant.name}'"
                )
    facts["quantization_seconds"] = round(time.perf_counter() - start, 1)
    facts["quantization_peak_memory_mb"] = _peak_memory_mb()
    _write_json(variant.made, facts)


def _kernel_dtype(quantizer: Quantizer, wanted: str) -> str:
    """The float type to run the kernel in: the one wanted where it can."""
    return wanted if wanted in quantizer.kernel_dtypes else "float16"


def _probe_ids(parent: Path, device: str) -> Any:
    import torch

    return torch.tensor([load_tokenizer(parent)(receipts.PROBE).input_ids], device=device)


def _inspect(variant: Variant, parent: Path, report: Callable[[str], None]) -> tuple[dict[str, Any], Any]:
    """Test the kernel against dense matrices, and write these as the twin where there is one.

    Returns:
        What a receipt says about kernel and layers, and the twin's logits on the probe before it was written.
    """
    quantizer = variant.quantizer
    report(f"{variant.name}: {'writing its dequantized twin' if variant.twin else 'testing its kernel'}")
    model = quantizer.load(_source(variant, parent), _kernel_dtype(quantizer, variant.dtype), variant.device)
    kernels = quantized_layers(model)
    if not kernels:
        # A method may also round plain matrices in place.
        reference = load_dense(parent, variant.dtype, variant.device)
        names = receipts.changed_layers(model, reference)
        if not names or variant.twin is not None:
            raise ModelError(f"variant '{variant.name}': the quantizer left no layer quantized")
        return receipts.inspect_layers(quantizer, names, model, reference), None
    ids = _probe_ids(parent, variant.device)
    dense = dense_copy(model, variant.dtype)
    facts = receipts.inspect_kernel(model, dense, ids).model_dump()
    names = {name: type(kernel).__name__ for name, kernel in kernels.items()}
    del model, kernels
    logits = receipts.embedding_gradient(dense, ids)[0].cpu()
    if variant.twin is not None:
        with _into(variant.twin) as made:
            dense.save_pretrained(made)
    reference = load_dense(parent, variant.dtype, variant.device)
    facts |= receipts.inspect_layers(quantizer, names, dense, reference)
    return facts, logits.numpy() if variant.twin is not None else None


def _measure(
    variant: Variant, parent: Path, logits: Any, report: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Measure a variant beside its parent; return what a receipt says about its outputs, and warnings.

    Args:
        variant: the variant.
        parent: directory of the parent checkpoint.
        logits: what the twin has to give on the probe; None where there is no twin.
        report: called with a line.
    """
    import torch

    quantizer = variant.quantizer
    report(f"{variant.name}: measuring it beside its parent")
    model = load_variant(variant, parent)
    if logits is not None:
        read = receipts.embedding_gradient(model, _probe_ids(parent, variant.device))[0].cpu()
        receipts.check_same_logits(torch.from_numpy(logits), read, f"the twin of variant '{variant.name}'")
    is_parent = quantizer.method == "full" and variant.dtype == variant.parent_dtype
    reference = model if is_parent else load_dense(parent, variant.parent_dtype, variant.device)
    tokenizer = load_tokenizer(parent)
    measures = receipts.measure_text(model, reference, receipts.text_tokens(tokenizer))
    generated = _continuations(model, tokenizer)
    by_parent = _continuations(reference, tokenizer) if receipts.only_repeats(generated) else []
    fault = receipts.fault(measures, generated, by_parent)
    warnings = [f"broken: {fault}"] if fault else []
    if quantizer.own_source is not None:
        warnings += receipts.unlike_parent(model, reference, quantizer.rescales)
    found = measures.model_dump(include={"perplexity"} if is_parent else None)
    return {**found, "fault": fault}, warnings


def _receipt(variant: Variant, parent: Path, facts: dict[str, Any], warnings: list[str]) -> Receipt:
    quantizer = variant.quantizer
    cosine = facts.get("gradient_cosine")
    # A method that rounds activations has another gradient than its dense matrices by right; explainers that
    # use gradients are refused on it all the same, but nothing is broken.
    if (
        variant.quantizer.has_twin
        and "gradient_cosine" in facts
        and not (cosine or 0) >= receipts.LEAST_COSINE
    ):
        warnings = [
            *warnings,
            f"the kernel's gradient at the embeddings is not that of the function it computes (cosine {cosine}): "
            "explainers that use gradients are refused on the kernel",
        ]
    return Receipt(
        variant=variant.name,
        method=quantizer.method,
        options=quantizer.model_dump(mode="json"),
        weight_bits=quantizer.weight_bits or {"float32": 32.0}.get(variant.dtype, 16.0),
        execution=variant.execution,
        dtype=variant.dtype,
        device=variant.device,
        weights_digest=variant.weights_digest,
        checkpoint_bytes=_size(quantizer.own_source or variant.checkpoint or variant.twin or parent),
        versions=machine.versions(),
        warnings=warnings,
        peak_memory_mb=_peak_memory_mb(),
        **{"bits_per_weight": quantizer.bits_per_weight, **facts},
    )


def _continuations(model: Any, tokenizer: Any) -> list[str]:
    """Greedy continuations of a few headlines, by which a model that only repeats itself is known."""
    from quantxai.engine import TransformersModel

    prompts = [" ".join(item.text.split()[:8]) for item in load_dataset("news").items[:4]]
    made = TransformersModel(model, tokenizer).generate(prompts, max_new_tokens=24)
    return [generation.text for generation in made]


def _round_on_same_grid(variant: Variant, parent: Path, report: Callable[[str], None]) -> float | None:
    """Return the perplexity of round-to-nearest on the variant's grid."""
    grid = variant.quantizer.grid
    assert grid is not None
    report(f"{variant.name}: measuring round-to-nearest on the same grid, for comparison")
    control = registry.method("quantizer", "rtn").model_validate(grid._asdict())
    model = control.load(parent, variant.dtype, variant.device)
    return receipts.measure_text(model, model, receipts.text_tokens(load_tokenizer(parent))).perplexity


def _unhelpful(variant: Variant, perplexity: float | None, rounded: float | None) -> list[str]:
    """Return the warning that calibration was not worth it, if it was not."""
    if (perplexity or math.inf) < (rounded or math.inf):
        return []
    return [
        f"{variant.quantizer.method} (perplexity {_figure(perplexity)}) does not beat round-to-nearest "
        f"on the same grid ({_figure(rounded)}): its calibration did not help"
    ]


def _figure(perplexity: float | None) -> str:
    return "not finite" if perplexity is None else f"{perplexity:.1f}"


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*.safetensors"))


def _peak_memory_mb() -> int:
    """Of this process, or of the largest that it started."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) // 1024
