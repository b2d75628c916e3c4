"""What GPTQ and AWQ share: importing gptqmodel so that it behaves as part of a program."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from quantxai.shapes import Shape

__all__ = ["import_gptqmodel", "logs_discarded", "solver_bytes"]

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


def solver_bytes(shape: Shape, tokens: int, device: str, per_parameter: float) -> int:
    """Return the peak memory of quantizing with gptqmodel, libraries left out.

    Weights and copies of them, the calibration text's hidden states in float32 (two streams in and out
    of a block, one inside it), and second moments. Measured on a CPU, where weights are float32
    (benchmarks/footprint.py); on a GPU, taken to be half, since they are of 16 bits there.

    Args:
        shape: the model's.
        tokens: calibration tokens.
        device: cpu or cuda.
        per_parameter: bytes that weights and their copies take on a CPU.
    """
    weights = shape.parameters * (per_parameter if device == "cpu" else per_parameter / 2)
    states = 2 * tokens * (2 * shape.hidden + shape.inner) * 4
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
