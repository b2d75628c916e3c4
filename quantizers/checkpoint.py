"""A quantized checkpoint made elsewhere, as a variant: GPTQ, AWQ, bitsandbytes, compressed-tensors, GGUF.

What it was quantized from cannot be known, only made plausible: its receipt compares the parameters
that quantization leaves alone with the parent's and warns where they differ.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from quantxai.checkpoints import load_dense, tensor_shapes
from quantxai.errors import ModelError
from quantxai.methods import Quantizer
from quantxai.models import ModelSource, gguf_read_once, pull, read_config, resolve
from quantxai.records import digest

__all__ = ["Checkpoint"]


class Described(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
        format: gptq, awq, bitsandbytes, compressed-tensors or gguf.
        bits: per weight.
        group_size: weights that share a scale; null for a whole row.
        symmetric: whether there are no zero points.
        weight_only: whether layers' inputs stay as they are.
        word: bits of the integers that weights are packed into.
        scale_bits: of a scale.
    """

    format: str
    bits: int
    group_size: int | None
    symmetric: bool
    weight_only: bool = True
    word: int = 32
    scale_bits: float = 16


class Checkpoint(Quantizer):
    """An existing quantized checkpoint, by path or Hub id."""

    method: ClassVar[str] = "checkpoint"
    summary: ClassVar[str] = (
        "a quantized checkpoint made elsewhere: GPTQ, AWQ, bitsandbytes, compressed-tensors, GGUF"
    )
    packages: ClassVar[tuple[str, ...]] = ()

    path: str = Field(
        description="Its directory, a .gguf file, or either on the Hub: owner/name, owner/name/file.gguf."
    )
    revision: str | None = Field(None, description="Hub revision; the newest where left out.")

    @property
    def described(self) -> Described:
        """What its configuration says."""
        return _described(self.path, self.revision)

    def digest(self) -> str:
        """Return the SHA-256 of the checkpoint itself, wherever it lies."""
        return digest([self.method, self.version, self._resolved.digest])

    @property
    def label(self) -> str:
        """See Quantizer.label."""
        return Path(self.path).name.removesuffix(".gguf")

    @property
    def weight_bits(self) -> float:
        """See Quantizer.weight_bits."""
        return float(self.described.bits)

    @property
    def bits_per_weight(self) -> float | None:
        """See Quantizer.bits_per_weight. Null where it depends on the layer, or a file holds several formats."""
        return self.layer_bits(0) if self.described.group_size else None

    def layer_bits(self, width: int) -> float | None:
        """See Quantizer.layer_bits."""
        found = self.described
        if found.format == "gguf":
            return None
        zero_point = 0 if found.symmetric else found.bits
        return found.bits + (found.scale_bits + zero_point) / (found.group_size or width)

    def kernel_bits(self, width: int, number_bits: int) -> float:
        """See Quantizer.kernel_bits. GGUF and compressed-tensors are unpacked when they are loaded."""
        if self.described.format in ("gguf", "compressed-tensors"):
            return number_bits
        return super().kernel_bits(width, number_bits)

    @property
    def kernel_dtypes(self) -> tuple[str, ...]:
        """See Quantizer.kernel_dtypes."""
        return ("bfloat16", "float16") if self.described.format == "awq" else super().kernel_dtypes

    @property
    def has_twin(self) -> bool:
        """A GGUF file is read into dense matrices already; others may also round activations."""
        found = self.described
        return found.weight_only and found.format != "gguf"

    @property
    def rescales(self) -> bool:
        """See Quantizer.rescales. Makers of compressed-tensors do it too (AWQ, SmoothQuant), and do not say."""
        return self.described.format in ("awq", "compressed-tensors")

    @property
    def own_source(self) -> Path:
        """See Quantizer.own_source."""
        return pull(self._resolved, lambda line: None)

    @property
    def download_bytes(self) -> int:
        """See Quantizer.download_bytes."""
        return self._resolved.download_bytes

    def fetch(self, report: Callable[[str], None]) -> None:
        """See Quantizer.fetch."""
        pull(self._resolved, report)

    @property
    def _resolved(self) -> ModelSource:
        return _resolve(self.path, self.revision)

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load. The kernel is pinned as for what is quantized here."""
        found = self.described
        if found.format == "gguf":
            return _load_gguf(source, dtype, device)
        if found.format in ("gptq", "awq"):
            _check_bits(source, found)
            from quantizers.awq import load_awq
            from quantizers.gptq import load_gptq

            load = load_gptq if found.format == "gptq" else load_awq
            return load(source, found.bits, found.group_size or -1, dtype, device)
        if found.format == "compressed-tensors":
            _check_bits(source, found)
            from quantizers.compressed import load_compressed

            return load_compressed(source, dtype, device)
        from quantizers.bnb import keep_weights_packed_once, use_exact_float_matmul

        if found.bits == 8 and device == "cpu":
            use_exact_float_matmul()
        model = load_dense(source, dtype, device)
        keep_weights_packed_once(model)
        return model


@functools.cache
def _resolve(path: str, revision: str | None) -> ModelSource:
    """Find the checkpoint once a process: a digest is asked for by every cell, and the Hub would be, too."""
    return resolve(path, revision, quantized=True)


@functools.cache
def _described(path: str, revision: str | None) -> Described:
    if path.endswith(".gguf"):
        file = _resolve(path, revision).path
        return Described("gguf", _bits_of(path) if file is None else _gguf_bits(file), None, False)
    config = read_config(_resolve(path, revision))
    settings: Mapping[str, Any] = config.get("quantization_config") or {}
    method = str(settings.get("quant_method", "")).lower()
    if not settings:
        raise ModelError(
            f"checkpoint '{path}': its config.json has no quantization_config, so it is not quantized. An "
            "unquantized model is a parent: give it with --model, and leave it out of the variants."
        )
    if method in ("gptq", "awq"):
        bits = settings.get("bits", settings.get("w_bit"))
        group = settings.get("group_size", settings.get("q_group_size"))
        if bits not in (2, 3, 4, 8):
            raise ModelError(
                f"checkpoint '{path}': bits = {bits!r} in its config.json; expected 2, 3, 4 or 8"
            )
        symmetric = bool(settings.get("sym", not settings.get("zero_point", True)))
        return Described(method, int(bits), int(group) if group and int(group) > 0 else None, symmetric)
    if method == "bitsandbytes":
        if settings.get("load_in_8bit"):
            return Described(method, 8, None, True, weight_only=False, scale_bits=32)
        # Scales of 64 weights are float32, or 8 bits under a float32 scale of 256 of them.
        doubled = settings.get("bnb_4bit_use_double_quant")
        return Described(method, 4, 64, True, scale_bits=8 + 32 / 256 if doubled else 32)
    if method == "compressed-tensors":
        return _described_compressed(path, settings)
    raise ModelError(
        f"checkpoint '{path}': quant_method = \"{method}\" cannot be read here; supported: gptq, awq, bitsandbytes, "
        "compressed-tensors, and .gguf files"
    )


def _described_compressed(path: str, settings: Mapping[str, Any]) -> Described:
    """Read its groups of layers, which have to be of one kind."""
    groups = [g for g in (settings.get("config_groups") or {}).values() if isinstance(g, dict)]
    found = {_described_group(group) for group in groups if (group.get("weights") or {}).get("num_bits")}
    if len(found) == 1:
        return found.pop()
    said = "quantizes layers in different ways" if found else "names no group with quantized weights"
    raise ModelError(
        f"checkpoint '{path}': its quantization_config {said}; what can be read here has one scheme for all "
        "quantized layers"
    )


def _described_group(group: Mapping[str, Any]) -> Described:
    weights = group["weights"]
    block_float = weights.get("type") == "float" and bool(weights.get("group_size"))
    return Described(
        "compressed-tensors",
        int(weights["num_bits"]),
        weights.get("group_size"),
        bool(weights.get("symmetric", True)),
        weight_only=not (group.get("input_activations") or group.get("output_activations")),
        word=8 if block_float else 32,
        scale_bits=8 if block_float else 16,
    )


def _check_bits(source: Path, found: Described) -> None:
    """Refuse a config that lies about its bits: the packed tensors' shapes tell."""
    shapes = tensor_shapes(source)
    for name in shapes:
        packed, width = _packed(name, shapes, found)
        if width and packed * found.word != width * found.bits:
            held = packed * found.word / width
            raise ModelError(
                f"checkpoint '{source}': config.json says {found.bits} bits, but the tensor '{name}' of shape "
                f"{tuple(shapes[name])} holds {held:g} bits a weight. The config or the files are wrong; get the "
                "checkpoint again from where it was made."
            )


def _packed(name: str, shapes: Mapping[str, Sequence[int]], found: Described) -> tuple[int, int]:
    """Return how many words hold how many weights along a packed tensor's packed side; 0, 0 for any other."""
    stem, _, leaf = name.rpartition(".")
    scales = shapes.get(f"{stem}.scales" if leaf == "qweight" else f"{stem}.weight_scale")
    if leaf not in ("qweight", "weight_packed") or scales is None:
        return 0, 0
    rows, columns = shapes[name]
    if leaf == "weight_packed":
        # Only whole weights are put into a word here: one of 3 bits takes more.
        return (columns, scales[1] * (found.group_size or 0)) if found.word % found.bits == 0 else (0, 0)
    if found.format == "awq":
        return columns, scales[1]
    order = shapes.get(f"{stem}.g_idx")
    return rows, order[0] if order else scales[0] * (found.group_size or 0)


def _load_gguf(file: Path, dtype: str, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with gguf_read_once():
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=getattr(torch, dtype), device_map=device
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"checkpoint '{file}': cannot be read: {str(error).splitlines()[0]}") from error
    # transformers marks a GGUF load as quantized, though its matrices are dense.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval()


def _gguf_bits(file: Path) -> int:
    """Bits of the format most weights are in, from the tensors' own types."""
    try:
        from gguf import GGUFReader
    except ImportError:
        from quantxai.errors import MissingExtra

        raise MissingExtra("gguf", "models", f"the checkpoint '{file}'") from None
    counts: dict[str, int] = {}
    try:
        for tensor in GGUFReader(file).tensors:
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"checkpoint '{file}': not a readable GGUF file: {error}") from error
    return _bits_of(max(counts, key=lambda name: counts[name]))


def _bits_of(name: str) -> int:
    """Bits that the name of a GGUF format says, Q4_K or IQ3_XS, alone or in a file's name; else 16."""
    found = re.search(r"(?:^|[^A-Za-z])I?Q([2-8])_", name)
    return int(found[1]) if found else 16
