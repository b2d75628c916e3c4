"""What GPTQ and AWQ share: importing gptqmodel so that it behaves as part of a program."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from quantxai.shapes import Shape

if TYPE_CHECKING:
    from quantxai.devices import Device

__all__ = ["calibration_dtype", "calibration_flops", "import_gptqmodel", "logs_discarded", "solver_bytes"]

START_SECONDS = 5.0
"""Starting gptqmodel's quantization, and packing afterwards."""
START_BYTES = 140_000_000
"""What gptqmodel imports and sets up when it starts to quantize."""


@cache
def import_gptqmodel() -> Any:
    """Import gptqmodel with a worker pool that fits this machine and without its progress display."""
    # Its CPU pool refuses to start with more workers than cores allow; read at import.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(min(2, os.cpu_count() or 1)))
    import gptqmodel
    import torch

    # Its torch kernels compile themselves at the first call, a minute for what is then run once.
    torch._dynamo.config.disable = True
    logging.getLogger("gptqmodel").setLevel(logging.ERROR)
    return gptqmodel


def calibration_dtype(device: str, dtype: str, bits: int) -> str:
    """Return the float type a model is calibrated in: on a CPU the sweep's for 4 bits, else float32.

    Weights pass through it between rounding and packing, and bfloat16's 8 bits of precision cannot hold a grid
    of 256 points. With 3 bits GPTQ is worse in it: perplexity 191 and 206 of SmolLM2-135M with two calibration
    samples, in float32 176 and 186.

    Args:
        device: cpu or cuda.
        dtype: the sweep's float type.
        bits: of the quantized weights.
    """
    if device != "cpu":
        return "float16"
    return "bfloat16" if dtype == "bfloat16" and bits == 4 else "float32"


def calibration_flops(device: Device, bits: int) -> float:
    """Return the floating-point operations a second that reading the calibration text reaches."""
    read_in = calibration_dtype(device.kind, device.dtype, bits)
    return device.float32_flops if read_in == "float32" else device.flops


def solver_bytes(
    shape: Shape, tokens: int, device: Device, bits: int, *, in_float32: float, in_16_bits: float
) -> int:
    """Return the peak memory of quantizing with gptqmodel, libraries left out.

    Weights and copies of them, the calibration text's hidden states (two streams in and out of a block, one
    inside it), and second moments in float32. Measured on a CPU, in float32 and bfloat16
    (benchmarks/footprint.py); on a GPU taken to be as there.

    Args:
        shape: the model's.
        tokens: calibration tokens.
        device: where it is quantized.
        bits: of the quantized weights.
        in_float32: bytes a parameter that weights and their copies take, calibrated in float32.
        in_16_bits: the same, calibrated in 16 bits.
    """
    whole = calibration_dtype(device.kind, device.dtype, bits) == "float32"
    weights = shape.parameters * (in_float32 if whole else in_16_bits)
    states = 2 * tokens * (2 * shape.hidden + shape.inner) * (4 if whole else 2)
    return int(weights + states + 3 * 4 * shape.inner**2 + START_BYTES)


@contextmanager
def logs_discarded() -> Iterator[None]:
    """Keep gptqmodel from leaving a `logs` directory wherever the user happens to be."""
    from gptqmodel.looper import loop_processor

    with (
        tempfile.TemporaryDirectory() as scratch,
        patch.object(loop_processor, "_PROJECT_LOG_DIR", Path(scratch)),
    ):
        yield
