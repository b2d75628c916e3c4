"""How much a device holds and how fast it computes: GPUs by name, and this machine's processor."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from quantxai import machine
from quantxai.errors import UnknownName

__all__ = ["GPUS", "Device", "gpu", "this_machine"]

PROMPT_EFFICIENCY = 0.4
"""Of a GPU's peak rate, reached when reading prompts. An assumption."""
READ_EFFICIENCY = 0.6
"""Of a GPU's bandwidth, reached when generating. An assumption."""
CPU_EFFICIENCY = 0.7
"""Of numpy's float32 products, reached when reading prompts: measured with 49 to 163 million parameters."""
BFLOAT16_GAIN = 2.2


class Device(NamedTuple):
    """Where a sweep would run.

    Attributes:
        name: as it is given, or what this machine's processor is called.
        kind: cpu or cuda.
        memory_bytes: of the whole device.
        flops: floating-point operations a second that reading a prompt in `dtype` reaches.
        float32_flops: the same in float32.
        bandwidth: bytes a second that reading weights reaches; null where generation is counted otherwise.
        dtype: the sweep's float type there.
        basis: where the rates come from.
    """

    name: str
    kind: str
    memory_bytes: int
    flops: float
    float32_flops: float
    bandwidth: float | None
    dtype: str
    basis: str


class _Sheet(NamedTuple):
    """A maker's data sheet: GB, TB/s, dense TFLOP/s in 16 bits with float32 sums, in float32, and the type."""

    memory: float
    bandwidth: float
    flops: float
    float32: float
    dtype: str = "bfloat16"


GPUS = {
    "b200": _Sheet(180, 8.0, 2250, 75),
    "h200": _Sheet(141, 4.8, 989, 67),
    "h100": _Sheet(80, 3.35, 989, 67),
    "a100": _Sheet(80, 2.04, 312, 19.5),
    "a100-40": _Sheet(40, 1.56, 312, 19.5),
    "l40s": _Sheet(48, 0.864, 362, 91.6),
    "rtx5090": _Sheet(32, 1.79, 210, 105),
    "rtx4090": _Sheet(24, 1.01, 165, 82.6),
    "rtx3090": _Sheet(24, 0.936, 71, 35.6),
    "a10": _Sheet(24, 0.6, 125, 31.2),
    "l4": _Sheet(24, 0.3, 121, 30.3),
    "t4": _Sheet(16, 0.32, 65, 8.1, "float16"),
}


def gpu(name: str) -> Device:
    """Return a GPU by name.

    Raises:
        UnknownName: it is not listed.
    """
    sheet = GPUS.get(name.lower())
    if sheet is None:
        raise UnknownName("GPU", name, GPUS)
    return Device(
        name=name.lower(),
        kind="cuda",
        memory_bytes=int(sheet.memory * 1e9),
        flops=PROMPT_EFFICIENCY * sheet.flops * 1e12,
        float32_flops=PROMPT_EFFICIENCY * sheet.float32 * 1e12,
        bandwidth=READ_EFFICIENCY * sheet.bandwidth * 1e12,
        dtype=sheet.dtype,
        basis=f"data sheet: {sheet.flops:g} TFLOP/s, of which {PROMPT_EFFICIENCY:.0%} are assumed, and "
        f"{sheet.bandwidth:g} TB/s, of which {READ_EFFICIENCY:.0%} are",
    )


def this_machine(dtype: str) -> Device:
    """Return this machine's processor, its rate measured in a moment."""
    matrix = np.ones((768, 768), dtype=np.float32)
    matrix @ matrix
    end, best = time.perf_counter() + 0.15, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    # The best of several: what else runs at this moment says nothing of the sweep.
    plain = 2 * matrix.shape[0] ** 3 / best
    flops = plain * CPU_EFFICIENCY
    gain = BFLOAT16_GAIN if dtype == "bfloat16" else 1.0
    return Device(
        name="this machine's processor",
        kind="cpu",
        memory_bytes=machine.memory_bytes() or 0,
        flops=flops * gain,
        float32_flops=flops,
        bandwidth=None,
        dtype=dtype,
        basis=f"{CPU_EFFICIENCY:.0%} of the {plain / 1e9:.0f} GFLOP/s that float32 products reach on this machine just "
        f"now{f', times {gain:g} for bfloat16' if gain > 1 else ''}",
    )
