"""A quantized checkpoint made elsewhere, as a variant: GPTQ, AWQ, bitsandbytes or GGUF.

What it was quantized from cannot be known, only made plausible: its receipt compares the parameters
that quantization leaves alone with the parent's and warns where they differ.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from quantxai.checkpoints import load_dense, tensor_shapes
from quantxai.errors import ModelError
from quantxai.methods import Quantizer
from quantxai.models import directory_digest, pull, resolve
from quantxai.records import digest

__all__ = ["Checkpoint"]

WORD = 32
"""Bits of the integers that GPTQ and AWQ pack weights into."""


class Described(NamedTuple):
    """What a checkpoint says of itself."""

    format: str
    bits: int
    group_size: int | None
    symmetric: bool


class Checkpoint(Quantizer):
    """An existing quantized checkpoint, by path or Hub id."""

    method: ClassVar[str] = "checkpoint"
    summary: ClassVar[str] = "a quantized checkpoint made elsewhere: GPTQ, AWQ, bitsandbytes, GGUF"
    packages: ClassVar[tuple[str, ...]] = ()

    path: str = Field(description="Its directory, a .gguf file, or a Hub id (owner/name).")
    revision: str | None = Field(None, description="Hub revision; the newest where left out.")

    @property
    def described(self) -> Described:
        """What its configuration says."""
        return _described(self.path, self.revision)

    def digest(self) -> str:
        """Return the SHA-256 of the checkpoint itself, wherever it lies."""
        return digest([self.method, self.version, _weights_digest(self.path, self.revision)])

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
        """See Quantizer.bits_per_weight."""
        found = self.described
        if found.format not in ("gptq", "awq") or not found.group_size:
            return None
        return found.bits + (16 + (0 if found.symmetric else found.bits)) / found.group_size

    @property
    def kernel_dtypes(self) -> tuple[str, ...]:
        """See Quantizer.kernel_dtypes."""
        return ("bfloat16", "float16") if self.described.format == "awq" else super().kernel_dtypes

    @property
    def has_twin(self) -> bool:
        """A GGUF file is read into dense matrices already, and int8 also rounds activations."""
        found = self.described
        return found.format in ("gptq", "awq") or (found.format == "bitsandbytes" and found.bits == 4)

    @property
    def rescales(self) -> bool:
        """See Quantizer.rescales."""
        return self.described.format == "awq"

    @property
    def own_source(self) -> Path:
        """See Quantizer.own_source."""
        return _directory(self.path, self.revision)

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
        from quantizers.bnb import keep_weights_packed_once, use_exact_float_matmul

        if found.bits == 8 and device == "cpu":
            use_exact_float_matmul()
        model = load_dense(source, dtype, device)
        keep_weights_packed_once(model)
        return model


def _directory(path: str, revision: str | None) -> Path:
    file = Path(path).expanduser()
    if file.suffix == ".gguf":
        if not file.is_file():
            raise ModelError(f"checkpoint '{path}': no such file")
        return file
    return pull(resolve(path, revision, quantized=True), lambda line: None)


@functools.cache
def _weights_digest(path: str, revision: str | None) -> str:
    file = Path(path).expanduser()
    if file.suffix == ".gguf":
        return directory_digest(_directory(path, revision))
    return resolve(path, revision, quantized=True).digest


@functools.cache
def _described(path: str, revision: str | None) -> Described:
    directory = _directory(path, revision)
    if directory.suffix == ".gguf":
        return Described("gguf", _gguf_bits(directory), None, False)
    config = json.loads((directory / "config.json").read_text())
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
        return Described(method, 8 if settings.get("load_in_8bit") else 4, None, False)
    raise ModelError(
        f"checkpoint '{path}': quant_method = \"{method}\" cannot be read here; supported: gptq, awq, bitsandbytes, "
        "and .gguf files"
    )


def _check_bits(source: Path, found: Described) -> None:
    """Refuse a config that lies about its bits: the packed tensors' shapes tell."""
    shapes = tensor_shapes(source)
    for name, shape in shapes.items():
        stem, _, leaf = name.rpartition(".")
        if leaf != "qweight" or f"{stem}.scales" not in shapes:
            continue
        groups, outputs = shapes[f"{stem}.scales"]
        if found.format == "awq":
            packed, width = shape[1], outputs
        else:
            packed = shape[0]
            width = (
                shapes[f"{stem}.g_idx"][0] if f"{stem}.g_idx" in shapes else groups * (found.group_size or 0)
            )
        if width and packed * WORD != width * found.bits:
            raise ModelError(
                f"checkpoint '{source}': config.json says {found.bits} bits, but the tensor '{name}' of shape "
                f"{tuple(shape)} holds {packed * WORD / width:g} bits a weight. The config or the files are wrong; "
                "get the checkpoint again from where it was made."
            )


def _load_gguf(file: Path, dtype: str, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
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
    most = max(counts, key=lambda name: counts[name])
    digits = [int(c) for c in most if c.isdigit()]
    return digits[0] if digits and most[0] in "QI" else 16
