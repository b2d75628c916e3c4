"""Variants made loadable: quantized, tested, measured, once, and cached."""

from __future__ import annotations

import json
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from quantxai import machine, receipts, registry
from quantxai.checkpoints import dense_copy, load_dense, load_tokenizer, quantized_layers, stored_dtype
from quantxai.datasets import calibration_texts, load_dataset
from quantxai.errors import ConfigError, ModelError
from quantxai.files import write_atomically
from quantxai.methods import MatchedControl, Quantizer
from quantxai.models import directory_digest, require_space
from quantxai.receipts import Receipt
from quantxai.records import digest
from quantxai.reference import keep_parent_logits, read_logits
from quantxai.variants import Variant

__all__ = ["calibration_tokens", "load_variant", "prepare"]


def load_variant(variant: Variant, parent: Path) -> Any:
    """Load a prepared variant as a transformers model."""
    if variant.twin is not None:
        return load_dense(variant.twin, variant.dtype, variant.device)
    return variant.quantizer.load(variant.source(parent), variant.dtype, variant.device)


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
            known = json.loads(variant.receipt.read_text())
            _check_unchanged(variant.twin or variant.source(parent), known["files_digest"], variant)
            if variant.checkpoint is not None:
                _check_unchanged(variant.checkpoint, known["checkpoint_digest"], variant)
            return {**known, "variant": variant.name}
        for leftover in variant.folder.glob(f"{_MAKING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        size = sum(f.stat().st_size for f in parent.glob("*.safetensors"))
        require_space(variant.folder, 4 * size if variant.twin else size, f"variant '{variant.name}'")
        if variant.checkpoint is not None and not (variant.made.is_file() and variant.checkpoint.is_dir()):
            apart(_make, variant, parent, report)
        facts, logits = json.loads(variant.made.read_text()) if variant.made.is_file() else {}, None
        if variant.checkpoint is not None:
            _check_unchanged(variant.checkpoint, facts["checkpoint_digest"], variant)
        if variant.quantizer.weight_bits is not None:
            found, logits = apart(_inspect, variant, parent, report)
            facts |= found
        report(f"{variant.name}: measuring it beside its parent")
        said = apart(keep_parent_logits, variant, parent)
        measures, warnings = apart(_measure, variant, parent, logits, said)
        if variant.quantizer.calibrated:
            rounded = apart(_round_on_same_grid, variant, parent, report)
            facts["rtn_same_grid_perplexity"] = rounded
            warnings += _unhelpful(variant, measures["perplexity"], rounded)
        receipt = _receipt(variant, parent, {**facts, **measures}, warnings).model_dump(mode="json")
        _write_json(variant.receipt, receipt)
        return receipt


def _check_unchanged(files: Path, expected: str, variant: Variant) -> None:
    """Raise ModelError where files are not those that were written and tested."""
    if directory_digest(files) != expected:
        where = variant.folder if files.is_relative_to(variant.folder) else files
        raise ModelError(
            f"variant '{variant.name}': the files in '{files}' are not those that were written and tested. Remove "
            f"'{where}' and give the same command again: it is made anew."
        )


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
        ConfigError: the calibration text is shorter than what was asked for.
    """
    tokenizer, asked = load_tokenizer(parent), variant.calibration
    ids = list(tokenizer("\n\n".join(calibration_texts(variant.config.seed, asked.path))).input_ids)
    sequences, length = variant.quantizer.calibration_sequences(asked.sequences, asked.length), asked.length
    available = len(ids) // length
    if available < sequences:
        enough = (
            f"calibration.sequences = {available}"
            if available
            else f"calibration.length = {len(ids)} or less"
        )
        raise ConfigError(
            f"variant '{variant.name}': {sequences} calibration sequences of {length} tokens were asked for, but the "
            f"{'built-in ' if asked.path is None else ''}text has only {len(ids)} tokens. Set {enough}, or give a "
            "longer text as calibration.path."
        )
    return [ids[i * length : (i + 1) * length] for i in range(sequences)]


def _make(variant: Variant, parent: Path, report: Callable[[str], None]) -> None:
    """Write the variant's checkpoint, and how it was made."""
    assert variant.checkpoint is not None
    start = time.perf_counter()
    with _into(variant.checkpoint) as made:
        make = _disturb if isinstance(variant.quantizer, MatchedControl) else _quantize
        facts = make(variant, parent, made, report)
    facts["quantization_seconds"] = round(time.perf_counter() - start, 1)
    facts["quantization_peak_memory_mb"] = _peak_memory_mb()
    facts["checkpoint_digest"] = directory_digest(variant.checkpoint)
    _write_json(variant.made, facts)


def _disturb(variant: Variant, parent: Path, out: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Write a matched control: the parent with errors of another variant's size."""
    assert variant.of is not None
    assert isinstance(variant.quantizer, MatchedControl)
    report(f"{variant.name}: disturbing the parent as much as {variant.of.name} does")
    layers = json.loads(variant.of.receipt.read_text())["layers"]
    norms = {layer["name"]: layer["error_norm"] for layer in layers}
    variant.quantizer.disturb(parent, norms, out, variant.config.seed)
    load_tokenizer(parent).save_pretrained(out)
    return {}


def _quantize(variant: Variant, parent: Path, out: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Write a quantized checkpoint, load it again and see that it computes the same."""
    quantizer = variant.quantizer
    calibration = calibration_tokens(variant, parent) if quantizer.calibrated else []
    tokens = sum(map(len, calibration))
    report(f"{variant.name}: quantizing{f' with {tokens} calibration tokens' if calibration else ''}")
    ids, written = _probe_ids(parent, variant.device), dict[str, Any]()

    def observe(live: Any) -> None:
        written[str(live.dtype)] = receipts.embedding_gradient(live, ids)[0]

    quantizer.quantize(parent, calibration, out, variant.device, variant.calibration_dtype, observe)
    load_tokenizer(parent).save_pretrained(out)
    for dtype, logits in written.items():
        read = quantizer.load(out, _kernel_dtype(quantizer, dtype.removeprefix("torch.")), variant.device)
        receipts.check_same_logits(
            logits, receipts.embedding_gradient(read, ids)[0], f"variant '{variant.name}'"
        )
    if not calibration:
        return {}
    return {
        "calibration_digest": digest(calibration),
        "calibration_tokens": tokens,
        "calibration_seed": variant.config.seed,
    }


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
    model = quantizer.load(variant.source(parent), _kernel_dtype(quantizer, variant.dtype), variant.device)
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
    # In the type it is stored in: the same numbers in half the memory, and two of these may run at a time.
    reference = load_dense(parent, stored_dtype(parent), variant.device)
    facts |= receipts.inspect_layers(quantizer, names, dense, reference)
    return facts, logits.numpy() if variant.twin is not None else None


def _measure(variant: Variant, parent: Path, logits: Any, said: Path) -> tuple[dict[str, Any], list[str]]:
    """Measure a variant beside its parent; return what a receipt says about its outputs, and warnings.

    Args:
        variant: the variant.
        parent: directory of the parent checkpoint.
        logits: what the twin has to give on the probe; None where there is no twin.
        said: file of the parent's logits on the receipts' text.
    """
    import torch

    quantizer, tokenizer = variant.quantizer, load_tokenizer(parent)
    model = load_variant(variant, parent)
    if logits is not None:
        read = receipts.embedding_gradient(model, _probe_ids(parent, variant.device))[0].cpu()
        receipts.check_same_logits(torch.from_numpy(logits), read, f"the twin of variant '{variant.name}'")
    expected, ids = read_logits(said), receipts.text_tokens(tokenizer)
    is_parent = quantizer.method == "full" and variant.dtype == variant.parent_dtype
    measures = (
        receipts.measure_text(expected, None, ids)
        if is_parent
        else receipts.measure_text(receipts.text_logits(model, ids), expected, ids)
    )
    generated = _continuations(model, tokenizer)
    repeats = receipts.only_repeats(generated)
    # The parent's weights themselves are seldom needed.
    beside = repeats or quantizer.own_source is not None
    reference = load_dense(parent, variant.parent_dtype, variant.device) if beside else None
    fault = receipts.fault(measures, generated, _continuations(reference, tokenizer) if repeats else [])
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
        files_digest=directory_digest(variant.twin or variant.source(parent)),
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
    ids = receipts.text_tokens(load_tokenizer(parent))
    return receipts.measure_text(receipts.text_logits(model, ids), None, ids).perplexity


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
